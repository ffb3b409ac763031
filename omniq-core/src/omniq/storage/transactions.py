"""Steps as transactions on tables that many processes have alike, each taking effect where it stands in a shared log.

A process tries steps on its own tables and sends what they wrote, with the position in the log that the tables had.
Whoever reads it, its sender included, lets a transaction take effect unless somebody else has written, after that
position, what it writes or rests on. All read the same log, so all decide alike, and nobody has to be asked: optimistic
concurrency control (H. T. Kung and J. T. Robinson, "On Optimistic Methods for Concurrency Control", 1981), by each
replica of a log (P. A. Bernstein et al., "Hyder: A Transactional Record Manager for Shared Flash", 2011).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from omniq.storage import rules
from omniq.storage.lines import KINDS, Line, encode_lines
from omniq.storage.records import TaskRecord
from omniq.storage.table_set import Step, Tables, Written

Key: TypeAlias = tuple[str, str]
"""What transactions compete for: the name of a table and the id of a row, or what rows stand for."""


class Footprint(NamedTuple):
    """What a transaction competes for."""

    writes: list[Key]
    rests_on: list[Key]
    """What others mustn't have written either."""


RowChange: TypeAlias = tuple[str, str, Any, Any]
"""The name of a table, the id of a row, and the row before and after; None where there was or is none."""


def footprint(changes: Iterable[RowChange]) -> Footprint:
    """That of a transaction which makes these changes."""
    found = Footprint([], [])
    for name, id_, old, new in changes:
        found.writes.append((name, id_))
        if name == "task":
            _add_task(found, old, new)
    return found


def _changes_made(written: Written) -> Iterator[RowChange]:
    for name, before in written.before.items():
        rows = written.tables.by_name[name].rows
        yield from ((name, id_, old, rows.get(id_)) for id_, old in before.items())


def _changes_told(tables: Tables, lines: Iterable[Line]) -> Iterator[RowChange]:
    """What the lines of a transaction would change."""
    by_name = tables.by_name
    for line in lines:
        for name, (id_field, _) in KINDS.items():
            if (new := getattr(line, name)) is not None:
                id_ = getattr(new, id_field)
                yield name, id_, by_name[name].rows.get(id_), new
        for name, ids in (line.gone or {}).items():
            yield from ((name, id_, by_name[name].rows.get(id_), None) for id_ in ids if name in by_name)


def _add_task(found: Footprint, old: TaskRecord | None, new: TaskRecord | None) -> None:
    """A unique key has one holder. A child's parent stays, and who ends or deletes a task knows all of its children."""
    keys = {row.unique for row in (old, new) if row is not None and row.unique is not None}
    if keys and (old is None or new is None or old.unique != new.unique):
        found.writes.extend(("unique", key) for key in keys)
    if old is None and new is not None:
        found.writes.extend(("children", parent) for parent in new.depends_on)
        found.rests_on.extend(("task", parent) for parent in new.depends_on)
    elif old is not None and (new is None or (new.finished_at is not None and old.finished_at is None)):
        found.rests_on.append(("children", old.id))


def revert(tables: Tables, written: Written) -> None:
    """Let every row be what it was before that was written, since when nothing was."""
    for name, table in tables.by_name.items():
        table.before = dict(written.before[name])
        table.undo()


class Competition:
    """Where in a log things were written last, as far as transactions compete with that."""

    def __init__(self, since: int) -> None:
        """Transactions that rest on a position before `since` are refused: what was written there isn't known here."""
        self._since = since
        self._written: dict[Key, int] = {}

    def admits(self, base: int, position: int, wanted: Footprint) -> bool:
        """Whether a transaction at `position` that rests on `base` takes effect, of which note is taken then.

        What the same segment has written before it is no reason against it.
        """
        if base < self._since or any(base < self._written.get(key, 0) < position for keys in wanted for key in keys):
            return False
        self.note(position, wanted)
        return True

    def note(self, position: int, wanted: Footprint) -> None:
        """Take note of a transaction that has taken effect there."""
        for key in wanted.writes:
            self._written[key] = position


class Trial:
    """Steps that were tried on tables, one after the other, and are still there."""

    def __init__(self, tables: Tables, steps: Sequence[Step[Any]], now: float, position: int) -> None:
        """Raises what a step raises: then none of them has changed anything."""
        self.position = position
        """Where in the log the tables were before."""
        self.answers: list[Any] = []
        self.written: list[Written] = []
        self.lines: list[list[Mapping[str, Any]]] = []
        """What each of the steps has written, to be encoded as lines that `decode_rows` reads."""
        self.footprints: list[Footprint] = []
        self._tables = tables
        try:
            for step in steps:
                self.answers.append(step(tables, now))
                self._note(tables.settle())
        except BaseException:
            tables.undo()
            self.undo()
            raise

    def _note(self, written: Written) -> None:
        self.written.append(written)
        self.lines.append(written.lines())
        self.footprints.append(footprint(_changes_made(written)))

    def standing(self, taken: Sequence[bool] | None, may_read: Sequence[bool]) -> list[bool]:
        """Which answers are so: those of who has written something, if it was `taken`; None: nothing was.

        Those of the others, as far as they `may_read` the tables, if all was taken that they may have seen there.
        """
        found, is_real = list[bool](), True
        for number, lines in enumerate(self.lines):
            found.append(taken is not None and taken[number] if lines else is_real and may_read[number])
            is_real = is_real and (found[-1] or not lines)
        return found

    def undo(self) -> None:
        """Let the tables be what they were before the steps."""
        while self.written:
            revert(self._tables, self.written.pop())


def replay(
    tables: Tables, lines: Sequence[Line], sizes: Sequence[int], base: int, position: int, competition: Competition
) -> Iterator[Written | None]:
    """Let the transactions of a segment take effect, of so many `lines` each: what each has written, None if refused.

    One that follows a refused one, and competes with it, is refused as well: it rests on what never was.
    """
    refused: set[Key] = set()
    start = 0
    for size in sizes:
        part = lines[start : start + size]
        start += size
        wanted = footprint(_changes_told(tables, part))
        if refused.isdisjoint(key for keys in wanted for key in keys) and competition.admits(base, position, wanted):
            tables.apply(part)
            yield tables.settle()
        else:
            refused.update(wanted.writes)
            yield None


# ── segments ────────────────────────────────────────────────────────────────


class Segment(Struct, omit_defaults=True, kw_only=True):
    """The first line of a message of the log."""

    log: str
    writer: str
    """A text that no other segment has."""
    base: int
    """The sequence of the segment up to which its writer had the tables."""
    sizes: Sequence[int] = ()
    """How many of the lines that follow belong to each of its transactions."""
    compacts: bool = False
    """Whether its writer makes a snapshot, so that others needn't; no transaction after it rests on what is before."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Segment).decode


def encode_segment(head: Segment, lines: Sequence[Mapping[str, Any]]) -> bytes:
    """A message of the log."""
    return _encode(head) + b"\n" + encode_lines(lines)


def read_segment(data: bytes) -> tuple[Segment | None, bytes]:
    """The head of a segment, None if it can't be read, and its lines, for `decode_rows`."""
    first, _, rest = data.partition(b"\n")
    with suppress(*rules.DAMAGE):
        return _decode(first), rest
    return None, rest
