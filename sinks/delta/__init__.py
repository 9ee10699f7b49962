"""Delta Lake tables: append and upsert, with the offsets as transaction identifiers of the same commit."""
