"""What RocksDB tells of a database: in use by another process, damaged, or in order."""

from __future__ import annotations

from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from tables.rocksdb import entries_from, is_in_use

ENTRIES = [(b"k%06d" % number, b"v" * 50) for number in range(2_000)]


def database(path: Path) -> Rdict:
    return Rdict(str(path), Options(raw_mode=True))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    made = database(tmp_path)
    for key, value in ENTRIES:
        made[key] = value
    made.close()
    return tmp_path


def test_entries_are_those_from_a_key_on(written: Path) -> None:
    assert entries_from(database(written), b"") == ENTRIES


def test_a_database_that_is_open_is_in_use(written: Path) -> None:
    held = database(written)
    with pytest.raises(Exception, match="lock") as refused:
        database(written)
    assert is_in_use(refused.value)
    held.close()


def test_a_damaged_block_is_told_from_a_database_in_use(written: Path) -> None:
    """RocksDB's word for it has `lock` in it, too."""
    (file,) = written.glob("*.sst")
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(Exception, match="block checksum mismatch") as damage:
        entries_from(database(written), b"")
    assert not is_in_use(damage.value)
