"""Where one stack's state lies, and the users that its processes run as."""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """One stack's state folder, and its ports."""

    state: Path
    ports: dict[str, int]

    def data(self, name: str) -> Path:
        """A service's data folder."""
        return self.state / "data" / name

    def conf(self, name: str) -> Path:
        """A service's generated configuration file."""
        return self.state / "conf" / name

    def log(self, name: str) -> Path:
        """A service's log file."""
        return self.state / "logs" / f"{name}.log"

    def status(self, name: str) -> Path:
        """The file in which a service tells its state."""
        return self.state / "services" / f"{name}.json"


@dataclass(frozen=True)
class Account:
    """A user that a process runs as."""

    name: str
    uid: int
    gid: int


def account(*candidates: str) -> Account:
    """The first of these users that exists if we are root (databases refuse to run as root), else ourselves."""
    names = candidates if os.getuid() == 0 else ()
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    me = pwd.getpwuid(os.getuid())
    return Account(me.pw_name, me.pw_uid, me.pw_gid)


def own_folder(path: Path, user: Account) -> None:
    """Make a folder that belongs to a service's user."""
    path.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        shutil.chown(path, user.uid, user.gid)


def barrier(folder: Path, user: Account) -> Path | None:
    """The first folder on the way to `folder`, itself included, that this user can't enter; None if all let them."""
    for place in (folder, *folder.parents):
        status = place.stat()
        if status.st_uid == user.uid:
            passes = status.st_mode & 0o100
        elif status.st_gid == user.gid:
            passes = status.st_mode & 0o010
        else:
            passes = status.st_mode & 0o001
        if not passes:
            return place
    return None


def write_whole(path: Path, text: str) -> None:
    """Write a file so that readers see the old or the new text, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.rename(path)
