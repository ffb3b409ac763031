"""What a database says in its own way, and statements as it takes them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any, ClassVar, Final, NamedTuple

from omniq.storage.sql.steps import Given, Kinds, Statement

_NAME: Final = re.compile(r"(?<!:):(\w+)")
"""A value's name; two colons are a cast."""


class Compiled(NamedTuple):
    """A statement as its driver takes it, and the names of its values in order."""

    sql: str
    names: tuple[str, ...]


class _Word(str):
    """What stands for `{word}`; for `{word[name]}` with that name put in."""

    def __getitem__(self, name: object) -> str:
        return self.format(name)


_TABLE = re.compile(r"^create (?:unlogged )?table (?:if not exists )?(?:omniq\.)?(\w+)", re.MULTILINE)


class Dialect(ABC):
    """A database's SQL. Beside its own words, a statement may say `{given}`, for the rows that come with it, and
    `{clock}`, for the same time in several places: common table expressions."""

    prefix: ClassVar[str] = "omniq."
    """What is put before the names of tables, instead of this schema."""
    words: ClassVar[Mapping[str, str]]
    """By name: `now`, the time in seconds since the epoch; `false`; and behind a query `skip_locked`, to lock what it
    finds and pass over what others have locked, `lock`, to wait for those, and `key_share`, to keep what it finds from
    being deleted. `any` is a condition on the column before it: it is one of the list whose name is put for `{}`,
    and `text` the text of that name, however the store gives it."""
    types: ClassVar[Mapping[str, str]]
    """For the tables: `key`, text that is ordered by code point; `time`, `bytes`, `small` and `bigint`; `number`, that
    rises from row to row; `boolean`, `object` and `texts`, JSON or arrays, of the column that is put for `{}`; `epoch`,
    the time by default; `body`, bytes, and perhaps `not null`; and behind a table `tasks`, `keyed`, if it is looked up
    by its key, or `numbered`."""

    @abstractmethod
    def given(self, kinds: Kinds) -> str:
        """SQL for the common table expression `given`, with a column `place` besides."""

    @abstractmethod
    def parameter(self, number: int) -> str:
        """SQL for a statement's value of that number, from 1."""

    @abstractmethod
    def now(self) -> float:
        """What the value `:now` is in `words["now"]`, unless a statement gives another."""

    @abstractmethod
    def sent(self, given: Given) -> Mapping[str, object]:
        """The values by which rows are given."""

    def bound(self, statement: Statement) -> tuple[str, list[Any]]:
        """The statement as the driver takes it, and its values in order."""
        given = statement.given
        sql, names = self.compiled(statement.text, given.kinds if given else ())
        values = {"now": self.now(), **statement.values, **(self.sent(given) if given else {})}
        return sql, [values[name] for name in names]

    def compiled(self, text: str, kinds: Kinds = ()) -> Compiled:
        """The statement with this text, to which rows of these columns are given."""
        return _compiled(self, text, kinds)

    def schema(self, package: str) -> str:
        """SQL that creates the tables, and what a package's own `schema.sql` adds."""
        tables = resources.files("omniq.storage.sql").joinpath("tables.sql").read_text("utf-8")
        own = resources.files(package).joinpath("schema.sql").read_text("utf-8")
        return self._said(tables, {**self.words, **self.types}) + own

    def tables(self, package: str) -> list[str]:
        """The names of those."""
        return _TABLE.findall(self.schema(package))

    def _said(self, text: str, words: Mapping[str, str], **more: str) -> str:
        named = {word: _Word(said) for word, said in words.items()}
        return text.replace("omniq.", self.prefix).format(**named, **more)


@lru_cache(maxsize=1000)
def _compiled(dialect: Dialect, text: str, kinds: Kinds) -> Compiled:
    clock = f"clock as materialized (select {dialect.words['now']} as now)"
    said = dialect._said(text, dialect.words, clock=clock, given=dialect.given(kinds) if kinds else "")
    numbers: dict[str, int] = {}
    sql = _NAME.sub(lambda m: dialect.parameter(numbers.setdefault(m[1], len(numbers) + 1)), said)
    return Compiled(sql, tuple(numbers))
