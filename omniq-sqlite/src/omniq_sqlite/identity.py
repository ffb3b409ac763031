"""Whether the files that a connection has open are still those at their paths."""

from __future__ import annotations

import contextlib
import os
from typing import TypeAlias

Identity: TypeAlias = tuple[int, int] | None
"""Device and inode; None where there is no file."""

BESIDE = ("-wal", "-shm")
"""The files that SQLite keeps beside a database in WAL mode as long as somebody has it open."""


class OpenFiles:
    """A database and the files beside it, as they are at the opening of a connection."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection = _identity(path)
        self._beside = [_identity(path + suffix) for suffix in BESIDE]

    @property
    def harm(self) -> str | None:
        """What has happened to them since, if something has."""
        if (now := _identity(self._path)) != self._connection:
            return "the file was deleted" if now is None else "the file was replaced"
        if self._now_beside() != self._beside:
            return f"its {' or '.join(BESIDE)} was deleted or replaced"
        return None

    @property
    def may_move_wal(self) -> bool:
        """Whether the WAL may still be moved into the database: not if that has another one by now."""
        now = _identity(self._path + "-wal")
        return _identity(self._path) != self._connection or now in (None, self._beside[0])

    def clear_away(self) -> None:
        """Delete what the old database has left beside a new one, which would take it for its own."""
        if _identity(self._path) != self._connection:
            for suffix, old, now in zip(BESIDE, self._beside, self._now_beside(), strict=True):
                if now is not None and now == old:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self._path + suffix)

    def _now_beside(self) -> list[Identity]:
        return [_identity(self._path + suffix) for suffix in BESIDE]


def _identity(path: str) -> Identity:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
