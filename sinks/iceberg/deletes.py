"""Rows of data files by their positions, as position-delete files hold them.

A delete file tells the path of a data file, some 150 bytes, with each of its positions. Here a path is there once, and
a position says by number which one it means.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io import FileIO

from sinks.iceberg.store import open_parquet


@dataclass(frozen=True)
class DeletedRows:
    """Rows of data files: `rows[i]` (int64) is a row's position in the file `paths[codes[i]]`."""

    paths: Sequence[str]
    codes: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]

    @classmethod
    def of(cls, parts: Iterable[tuple[str, npt.NDArray[np.integer]]]) -> DeletedRows:
        """From the rows of each file; the paths are distinct."""
        found = list(parts)
        lengths = [len(rows) for _, rows in found]
        codes = np.repeat(np.arange(len(found), dtype=np.int32), lengths)
        rows = np.concatenate([rows for _, rows in found]) if found else np.empty(0)
        return cls([path for path, _ in found], codes, rows.astype(np.int64))

    @classmethod
    def read(cls, io: FileIO, location: str, wanted: Collection[str] | None = None) -> DeletedRows:
        """A delete file's content; with `wanted`, only what it tells of these data files."""
        with open_parquet(io, location, read_dictionary=["file_path"]) as parquet:
            groups: Sequence[int] = range(parquet.num_row_groups)
            if wanted is not None:
                ordered = sorted(wanted)
                groups = [n for n in groups if _may_name(parquet.metadata.row_group(n), ordered)]
            table = parquet.read_row_groups(groups, columns=["file_path", "pos"])
        paths = pa.concat_arrays(table.column("file_path").unify_dictionaries().chunks or [_NO_PATHS])
        found = cls(paths.dictionary.to_pylist(), paths.indices.to_numpy(), table.column("pos").to_numpy())
        return found if wanted is None else found.keep(wanted)

    @classmethod
    def union(cls, parts: Iterable[DeletedRows]) -> DeletedRows:
        """All of them."""
        numbers: dict[str, int] = {}
        codes, rows = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        for part in parts:
            renumbered = np.array([numbers.setdefault(path, len(numbers)) for path in part.paths], np.int32)
            codes.append(renumbered[part.codes])
            rows.append(part.rows)
        return cls(list(numbers), np.concatenate(codes), np.concatenate(rows))

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, wanted: Collection[str]) -> DeletedRows:
        """Those of the data files in `wanted`."""
        kept = np.array([path in wanted for path in self.paths], bool)
        if kept.all():
            return self
        mask = kept[self.codes]
        return DeletedRows(self.paths, self.codes[mask], self.rows[mask])

    def sorted(self) -> DeletedRows:
        """In the order of a delete file: by path, then position."""
        order = np.argsort(np.array(self.paths, dtype=object), kind="stable") if self.paths else np.empty(0, np.int64)
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        codes = rank[self.codes]
        place = np.lexsort((self.rows, codes))
        return DeletedRows([self.paths[n] for n in order.tolist()], codes[place], self.rows[place])

    def by_file(self) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
        """The rows of each data file that has some."""
        place = np.argsort(self.codes, kind="stable")
        codes, rows = self.codes[place], self.rows[place]
        unique, starts = np.unique(codes, return_index=True)
        for code, part in zip(unique.tolist(), np.split(rows, starts[1:]), strict=False):
            yield self.paths[code], part

    def batches(self, schema: pa.Schema, size: int) -> Iterator[pa.Table]:
        """As tables of at most `size` rows with the columns (path, position) of `schema`."""
        paths = pa.array(self.paths, pa.string())
        for first in range(0, len(self), size):
            codes = pa.array(self.codes[first : first + size])
            yield pa.table([paths.take(codes), pa.array(self.rows[first : first + size])], schema=schema)


_NO_PATHS = pa.array([], pa.string()).dictionary_encode()


def _may_name(group: pq.RowGroupMetaData, ordered: Sequence[str]) -> bool:
    """Whether a row group's statistics allow one of these paths; they may be cut short, which keeps them bounds."""
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == "file_path":
            statistics = column.statistics
            if statistics is None or not statistics.has_min_max:
                return True
            place = bisect_left(ordered, statistics.min)
            return place < len(ordered) and ordered[place] <= statistics.max
    return True
