"""A study: upserts into Delta by data files and deletion vectors of our own, instead of delta-rs' MERGE.

Not part of the product. What came of it is in docs/deletion-vectors.md. The modules, bottom up:

- `vectors`: deletion vectors as bytes, and how an action names them
- `datafiles`: Parquet files and the statistics that Delta wants of them
- `log`: the table's log: reading it, and commits by put-if-absent
- `writer`: the upsert writer, its change data feed, tidying and cleaning
- `readers`, `answers`: other engines, and whether what they answer is right
- `checks`: are the rows right, for which reader, after which foreign operation? (`python -m …checks`)
- `object_store`: the same on S3, with two writers (`python -m …object_store`; wants the package obstore)
- `costs`: what a commit and a scan cost, against MERGE (`python -m …costs`)
"""
