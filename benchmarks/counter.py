"""A number in a file, which one process raises and all others read without asking anybody."""

from __future__ import annotations

import mmap
from pathlib import Path

SIZE = 8
"""Bytes."""


class SharedCounter:
    """The number. Only one process may raise it."""

    def __init__(self, path: Path) -> None:
        """Raises `FileNotFoundError` where nobody has created it."""
        with path.open("r+b") as file:
            self._number = memoryview(mmap.mmap(file.fileno(), SIZE)).cast("q")

    @classmethod
    def create(cls, path: Path) -> SharedCounter:
        """A new one, at 0."""
        path.write_bytes(bytes(SIZE))
        return cls(path)

    @property
    def value(self) -> int:
        return self._number[0]

    def increment(self) -> None:
        self._number[0] += 1
