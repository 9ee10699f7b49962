"""Rows set aside on disk by the hash of their key, so that they can be compared in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from config.errors import ConfigurationError
from verify.digests import Hashes

PART_ROWS = 100_000
"""Rows that a part is meant to have."""
_MOST_PARTS = 400
"""Files that one stream has open at most."""


class Spill:
    """Streams of rows, each in as many parts; the rows of a key are in the same part of every stream.

    One stream is written at a time: `writing` it, `add` rows, then read its parts.
    """

    def __init__(self, folder: Path, parts: int) -> None:
        self.parts = parts
        self._folder = folder
        self._writers: dict[int, tuple[pa.ipc.RecordBatchStreamWriter, pa.OSFile]] = {}
        self._stream = ""

    @contextmanager
    def writing(self, stream: str) -> Iterator[Spill]:
        """Rows that are added in the block go into `stream`."""
        self._stream = stream
        try:
            yield self
        finally:
            writers, self._writers = self._writers, {}
            with self._disk():
                for writer, file in writers.values():
                    writer.close()
                    file.close()

    def add(self, rows: pa.Table, keys: Hashes) -> None:
        """Put rows into the current stream; `keys` are the hashes of their keys."""
        if not len(keys):
            return
        # the low bits choose the key range: within some of them only these still differ
        parts = ((keys >> np.uint64(32)) % np.uint64(self.parts)).astype(np.intp)
        order = np.argsort(parts, kind="stable")
        rows = rows.take(pa.array(order)) if self.parts > 1 else rows
        ends = np.cumsum(np.bincount(parts, minlength=self.parts))
        first = 0
        with self._disk():
            for part in np.unique(parts).tolist():
                if part not in self._writers:
                    file = pa.OSFile(str(self._path(self._stream, part)), "wb")
                    self._writers[part] = pa.ipc.new_stream(file, rows.schema), file
                self._writers[part][0].write_table(rows.slice(first, int(ends[part]) - first))
                first = int(ends[part])

    def read(self, stream: str, part: int, schema: pa.Schema) -> pa.Table:
        """The rows of one part of a stream, in the order in which they were added."""
        path = self._path(stream, part)
        if not path.exists():
            return schema.empty_table()
        with self._disk(), pa.OSFile(str(path), "rb") as file:
            return pa.ipc.open_stream(file).read_all()

    def _path(self, stream: str, part: int) -> Path:
        return self._folder / f"{stream}.{part}.arrow"

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigurationError(
                f"rows that are to be compared can't be kept in {self._folder}: {error};"
                " set TMPDIR to a folder with room"
            ) from error


@contextmanager
def spill_for(rows: int) -> Iterator[Spill]:
    """A spill for streams of about so many rows each, in a temporary folder that goes with the block."""
    with TemporaryDirectory(prefix="cdc-verify-") as folder:
        yield Spill(Path(folder), min(_MOST_PARTS, max(1, -(-rows // PART_ROWS))))
