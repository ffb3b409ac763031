"""The kit for SQL: verbs as steps apart from any driver, dialects, tables, and the base of the stores."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from functools import lru_cache, partial, wraps
from importlib import resources
from operator import attrgetter
from typing import Any, ClassVar, Concatenate, Final, Generic, Literal, NamedTuple, ParamSpec, TypeAlias, TypeVar, cast

from msgspec import Struct
from msgspec.structs import FieldInfo, asdict, fields, replace

from omniq.models.event import TaskEvent
from omniq.storage.base import Store
from omniq.storage.channel import ALL
from omniq.storage.records import ResultRecord, ScheduleRecord, TaskRecord
from omniq.storage.rules import event_of, result_of, schedule_of, task_of
from omniq.storage.wakeups import News

# ── steps ───────────────────────────────────────────────────────────────────


R = TypeVar("R", bound=Struct)
T = TypeVar("T")
P = ParamSpec("P")

Kind: TypeAlias = Literal["text", "texts", "integer", "bigint", "boolean", "real", "time", "json", "bytes"]
"""Of what a column is: a `time` is in seconds since the epoch, a `real` any other float."""
Kinds: TypeAlias = tuple[tuple[str, Kind], ...]
"""The names and kinds of columns, in order."""
Row: TypeAlias = Sequence[Any]
Steps: TypeAlias = Generator["Step", Any, T]
"""A verb that is being carried out, and what it comes to."""


def kinds(columns: str) -> Kinds:
    """Names and kinds as SQL tells them: "id text, run_at time"."""
    named = (column.split() for column in columns.split(","))
    return tuple((name, cast("Kind", kind)) for name, kind in named)


class Given(NamedTuple):
    """Rows that come with a statement: it finds them as the table `given`, in their order by the column `place`."""

    kinds: Kinds
    columns: Sequence[Sequence[Any]]

    @classmethod
    def of(cls, kinds: Kinds, items: Sequence[object], **columns: Sequence[Any]) -> Given:
        """A row for each item: its attributes of those names, but for the columns that are given whole."""
        taken = [columns[name] if name in columns else list(map(attrgetter(name), items)) for name, _ in kinds]
        return cls(kinds, taken)

    def is_alike(self, number: int) -> bool:
        """Whether a column, other than the first one, the key, has the same value in all rows."""
        column = self.columns[number]
        return number > 0 and len(column) > 0 and column.count(column[0]) == len(column)

    def beside(self, other: Given) -> Given:
        """The same rows with another one's columns, too."""
        return Given(self.kinds + other.kinds, [*self.columns, *other.columns])


class Table(Struct, Generic[R], frozen=True, eq=False):
    """A table, and the records that its rows are."""

    name: str
    key: str
    record: type[R]
    damaged: Callable[[Mapping[str, object]], R]
    """Makes a record, with stand-ins, of the columns of a row that isn't sound."""
    where: str = "true"
    """The rows that count when records are asked for by their keys."""
    columns: Mapping[str, str] = {}
    """The names of columns that aren't their fields'."""
    derived: Callable[[R], R] | None = None
    """Sets what is no column but follows from others: the fields that are `left_out`, beside `damage`."""
    left_out: tuple[str, ...] = ()

    @property
    def fields(self) -> list[FieldInfo]:
        """The fields that are columns."""
        return [field for field in fields(self.record) if field.name not in ("damage", *self.left_out)]


class Page(NamedTuple, Generic[R]):
    """Records, and where the last one is found if there are more."""

    records: list[R]
    key: Any = None
    place: float | None = None
    """The time in the column that the step names."""


# ── the steps ────────────────────────────────────────────────────────────────


class Statement(Struct, frozen=True):
    """SQL, its values by their names, and perhaps rows."""

    text: str
    values: Mapping[str, object] = {}
    given: Given | None = None


class Do(Statement, frozen=True):
    """Change something. The answer is how many rows were."""


class Ask(Statement, frozen=True, kw_only=True):
    """Read rows of these columns. The answer is the rows."""

    columns: tuple[Kind, ...]


class Write(Statement, frozen=True, kw_only=True):
    """Change some of the rows that are given, by keys in their first column. The answer is the keys of those."""

    given: Given
    key: str
    """The column of the changed table that holds the key."""
    unchanged: Callable[[], Statement]
    """Makes a statement that selects the keys of the others, mostly none: for databases where to have each changed row
    returned is dear."""


class Get(Struct, Generic[R], frozen=True):
    """Read the records with these keys. The answer is one per key, or None where there is none."""

    table: Table[R]
    keys: Sequence[Any]
    bodies: bool = True
    """Else they are empty, and aren't read."""


class Select(Statement, Generic[R], frozen=True, kw_only=True):
    """Read the records whose `{columns}` a query selects. The answer is a `Page`."""

    table: Table[R]
    limit: int | None = None
    """How many records the page has at most; the query's `:limit` is one more."""
    place: str | None = None
    """The column that tells, beside the key, where in its order a record is found."""
    bodies: bool = True


class Call(Struct, frozen=True):
    """Do something that only the store itself can do. The answer is what the job returns, or awaits."""

    job: Callable[[Any], Any]
    """It is called with what the store sends its statements by."""


class Atomic(Struct, frozen=True):
    """Carry out a verb in one transaction, from the start again where somebody has come in between. The answer is what
    it comes to."""

    verb: Callable[[], Steps[Any]]


class Overtaken(Exception):
    """Somebody has come in between; raised inside an `Atomic`, which is rolled back."""


Step: TypeAlias = Do | Ask | Write | Get[Any] | Select[Any] | Call | Atomic


def do(text: str, given: Given | None = None, **values: object) -> Steps[int]:
    """Carry out a `Do`."""
    done: int = yield Do(text, values, given)
    return done


def ask(columns: tuple[Kind, ...], text: str, given: Given | None = None, **values: object) -> Steps[list[Row]]:
    """Carry out an `Ask`."""
    rows: list[Row] = yield Ask(text, values, given, columns=columns)
    return rows


def texts(text: str, given: Given | None = None, **values: object) -> Steps[list[str]]:
    """Carry out an `Ask` for a single column, of texts."""
    return [value for (value,) in (yield from ask(("text",), text, given, **values))]


def write(key: str, text: str, given: Given, *, unchanged: Callable[[], Statement]) -> Steps[set[str]]:
    """Carry out a `Write`."""
    keys: set[str] = yield Write(text, given=given, key=key, unchanged=unchanged)
    return keys


def get(table: Table[R], keys: Sequence[Any], *, bodies: bool = True) -> Steps[list[R | None]]:
    """Carry out a `Get`."""
    records: list[R | None] = yield Get(table, keys, bodies)
    return records


def select(
    table: Table[R],
    text: str,
    *,
    limit: int | None = None,
    place: str | None = None,
    bodies: bool = True,
    **values: object,
) -> Steps[Page[R]]:
    """Carry out a `Select`."""
    if limit is not None:
        values["limit"] = limit + 1
    page: Page[R] = yield Select(text, values, table=table, limit=limit, place=place, bodies=bodies)
    return page


def call(job: Callable[[Any], Any]) -> Steps[Any]:
    """Carry out a `Call`."""
    return (yield Call(job))


def atomically(verb: Callable[[], Steps[T]]) -> Steps[T]:
    """Carry out an `Atomic`."""
    answer: T = yield Atomic(verb)
    return answer


def calling(job: Callable[Concatenate[Any, P], T]) -> Callable[P, Steps[T]]:
    """A verb that is a single `Call` of a job, of the same arguments."""

    @wraps(job)
    def verb(*args: P.args, **kwargs: P.kwargs) -> Steps[T]:
        answer: T = yield Call(lambda connection: job(connection, *args, **kwargs))
        return answer

    return verb


def awaiting(job: Callable[Concatenate[Any, P], Awaitable[T]]) -> Callable[P, Steps[T]]:
    """A verb that is a single `Call` of an asynchronous job, of the same arguments."""
    return cast("Callable[P, Steps[T]]", calling(job))


def conditions(terms: Mapping[str, str], values: Mapping[str, object]) -> str:
    """SQL for those of the conditions whose value isn't None, by the names of the values."""
    return " and ".join(term for name, term in terms.items() if values.get(name) is not None) or "true"


# ── dialects ────────────────────────────────────────────────────────────────


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
    """For the tables: `key`, text that is ordered by code point; `time`, `bytes`, `small` and `bigint`; `boolean`,
    `object` and `texts`, JSON or arrays, of the column that is put for `{}`; `epoch`, the time by default; `body`,
    bytes, and perhaps `not null`; and behind a table `tasks`, or `keyed`, if it is looked up by its key."""

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


# ── tables ──────────────────────────────────────────────────────────────────


def _with_ttl(result: ResultRecord) -> ResultRecord:
    if result.expires_at is None:
        return result
    return replace(result, ttl=round(result.expires_at - result.finished_at, 6))


TASKS: Final = Table("task", "id", TaskRecord, task_of, columns={"unique": "unique_key"})
RESULTS: Final = Table(
    "result",
    "task_id",
    ResultRecord,
    result_of,
    where="(expires_at is null or expires_at > {now})",
    derived=_with_ttl,
    left_out=("ttl",),
)
SCHEDULES: Final = Table("schedule", "id", ScheduleRecord, schedule_of)
EVENTS: Final = Table("event", "id", TaskEvent, event_of)

_MENDED: Final = [field.name for field in fields(TaskRecord) if field.name not in ("id", "unique", "damage")]
MEND: Final = f"""
    update omniq.task set {", ".join(f"{name} = :{name}" for name in _MENDED)}, unique_key = null
    where id in ({{text[id]}}, :id)
"""
"""A task that is damaged gives its unique key up: that may be what is wrong with it, and of several stand-ins only one
could have it. An id that isn't text is given as a blob."""


def mended(task: TaskRecord) -> dict[str, Any]:
    """What `MEND` writes: what a damaged task was read as, so that it can be ended like others."""
    return asdict(task) | {"depends_on": task.depends_on or None}


# ── stores ──────────────────────────────────────────────────────────────────


Verb: TypeAlias = Callable[[], Steps[T]]
"""Begins to carry something out. It may be begun again, after a rollback."""


class SQLStore(Store):
    """A store that carries out verbs."""

    @abstractmethod
    async def _read(self, verb: Verb[T]) -> T:
        """What a verb comes to that changes nothing."""

    @abstractmethod
    async def _write(self, verb: Verb[T], *, atomic: bool = False) -> T:
        """What a verb comes to. If `atomic`, all of its steps are one."""

    def _tell(self, news: News, *, tasks: int = ALL) -> None:
        """Tell everybody whom this store can reach what was written: as many workers as tasks are due."""
        self.wakeups.tell(news)


def reads(verb: Callable[P, Steps[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """A store's method that carries out this verb, which changes nothing."""

    @wraps(verb)
    async def method(store: SQLStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await store._read(partial(verb, *args, **kwargs))

    return method


def writes(verb: Callable[P, Steps[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """A store's method that carries out this verb."""

    @wraps(verb)
    async def method(store: SQLStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await store._write(partial(verb, *args, **kwargs))

    return method
