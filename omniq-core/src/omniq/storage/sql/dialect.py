"""What a database says in its own way, and statements as it takes them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar, Final, NamedTuple

from omniq.storage.sql.steps import Kinds

_NAME: Final = re.compile(r"(?<!:):(\w+)")
"""A value's name; two colons are a cast."""


class Compiled(NamedTuple):
    """A statement as its driver takes it, and the names of its values in order."""

    sql: str
    names: tuple[str, ...]


class _Lists:
    """`{any[ids]}`: a condition that a column's value is one of the list `:ids`."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern

    def __getitem__(self, name: str) -> str:
        return self._pattern.format(f":{name}")


class Dialect(ABC):
    """A database's SQL. `now` is a value of every statement: what `words["now"]` needs it to be."""

    prefix: ClassVar[str] = "omniq."
    """What is put before the names of tables, instead of this schema."""
    any_of: ClassVar[str]
    """SQL behind a column, where `{}` is a list."""
    words: ClassVar[Mapping[str, str]]
    """By name: `now`, the time in seconds since the epoch; `false`; and behind a query `skip_locked`, to lock what it
    finds and pass over what others have locked, `lock`, to wait for those, and `key_share`, to keep what it finds from
    being deleted."""

    @abstractmethod
    def given(self, kinds: Kinds) -> str:
        """SQL for the common table expression `given`, with a column `place` besides."""

    @abstractmethod
    def parameter(self, number: int, name: str) -> str:
        """How the driver writes the value of that name, which is the statement's that-manieth, from 1."""

    def compiled(self, text: str, kinds: Kinds = ()) -> Compiled:
        """The statement with this text, to which rows of these columns are given."""
        return _compiled(self, text, kinds)


@lru_cache(maxsize=1000)
def _compiled(dialect: Dialect, text: str, kinds: Kinds) -> Compiled:
    given = dialect.given(kinds) if kinds else ""
    named = text.replace("omniq.", dialect.prefix).format(**dialect.words, any=_Lists(dialect.any_of), given=given)
    numbers: dict[str, int] = {}
    sql = _NAME.sub(lambda m: dialect.parameter(numbers.setdefault(m[1], len(numbers) + 1), m[1]), named)
    return Compiled(sql, tuple(numbers))
