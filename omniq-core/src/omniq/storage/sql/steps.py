"""What a verb asks of a database, one step after the other.

The text of a statement names its tables as `omniq.task`, its values as `:name`, and what dialects say in their own way
as `{word}`: see `omniq.storage.sql.dialect`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import wraps
from operator import attrgetter
from typing import Any, Concatenate, Generic, Literal, NamedTuple, ParamSpec, TypeAlias, TypeVar, cast

from msgspec import Struct
from msgspec.structs import FieldInfo, fields

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
