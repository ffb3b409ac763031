"""Short made-up runs, to test the checker with: good ones, and the same with one fault in it."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace
from omniq.models.task import TaskState

from tests.reliability.checker import Report, check
from tests.reliability.history import UNREACHABLE, Event, Kind
from tests.reliability.run import Expectations, Final

LEASE = 2.0
EXPECT = Expectations(lease=LEASE, reap_interval=0.5, pickup=1.0, comeback=5.0, renewal=0.5)
"""Recovery is due within 3.5 seconds."""


class Story(Struct, frozen=True):
    """A run: what happened, what it led to, and what was expected."""

    events: tuple[Event, ...]
    final: dict[str, Final]
    expect: Expectations = EXPECT

    def report(self) -> Report:
        return check(self.events, self.final, self.expect)

    def but(self, *, ending: dict[str, Final] | None = None, expect: Expectations | None = None) -> Story:
        """The same, with other final states or expectations."""
        return replace(self, final=self.final | (ending or {}), expect=expect or self.expect)

    def plus(self, *events: Event) -> Story:
        return replace(self, events=(*self.events, *events))

    def minus(self, kind: Kind, epoch: int = 0) -> Story:
        """The same, without the events of this kind, if so wished only those of one epoch."""
        kept = tuple(e for e in self.events if e.kind is not kind or epoch not in (0, e.epoch))
        return replace(self, events=kept)

    def delayed(self, epoch: int, by: float) -> Story:
        """The same, with all events of this epoch later by so many seconds."""
        events = (replace(e, time=e.time + by) if e.epoch == epoch else e for e in self.events)
        return replace(self, events=tuple(events))

    def moved(self, kind: Kind, epoch: int, time: float) -> Story:
        """The same, with the events of this kind and epoch at another time."""
        events = (replace(e, time=time) if (e.kind, e.epoch) == (kind, epoch) else e for e in self.events)
        return replace(self, events=tuple(events))


def value(id: str, epoch: int) -> str:
    """What the made-up functions return."""
    return f"{id}:{epoch}"


def success(id: str = "t", epoch: int = 1, **more: int | tuple[str, float]) -> Final:
    final = Final(state=TaskState.SUCCESS, epoch=epoch, result_epoch=epoch, result_value=value(id, epoch))
    return replace(final, **more)


def enqueued(id: str = "t", at: float = 0.0, *, parents: Iterable[str] = ()) -> Event:
    return Event(kind=Kind.ENQ_OK, time=at, id=id, parents=tuple(parents))


def seen(kind: Kind, at: float, id: str = "t", epoch: int = 1, worker: str = "a", to: str = "") -> Event:
    """An event of a task that a worker saw."""
    returned = value(id, epoch) if kind is Kind.DONE else ""
    return Event(kind=kind, time=at, id=id, epoch=epoch, worker=worker, value=returned, to=to)


def begin(at: float, id: str = "t", epoch: int = 1, worker: str = "a") -> tuple[Event, ...]:
    """Claimed and started."""
    return seen(Kind.CLAIM, at, id, epoch, worker), seen(Kind.START, at + 0.1, id, epoch, worker)


def finish(at: float, id: str = "t", epoch: int = 1, worker: str = "a") -> tuple[Event, ...]:
    """Returned and accepted."""
    return seen(Kind.DONE, at, id, epoch, worker), seen(Kind.SETTLED_OK, at + 0.1, id, epoch, worker, to="success")


def spawn(at: float, worker: str = "a") -> Event:
    return Event(kind=Kind.SPAWN, time=at, worker=worker)


def ready(at: float, worker: str = "a") -> Event:
    return Event(kind=Kind.READY, time=at, worker=worker)


def kill(at: float, worker: str = "a") -> Event:
    return Event(kind=Kind.KILL, time=at, worker=worker)


def leave(at: float, worker: str = "a", *, code: int = UNREACHABLE) -> Event:
    """A worker process ends by itself."""
    return Event(kind=Kind.EXIT, time=at, worker=worker, value=str(code))


def outage(since: float, until: float) -> tuple[Event, ...]:
    """The server is killed and comes back."""
    return Event(kind=Kind.SERVER_DOWN, time=since), Event(kind=Kind.SERVER_UP, time=until)


def both(one: Story, other: Story) -> Story:
    """Two runs in one, with the events that they share only once."""
    return Story(tuple(dict.fromkeys(one.events + other.events)), one.final | other.final, one.expect)


def plain(id: str = "t") -> Story:
    """One task runs once."""
    return Story((enqueued(id), *begin(1.0, id), *finish(2.0, id)), {id: success(id)})


def rescued() -> Story:
    """A worker is killed, and another one runs its task when the lease has ended."""
    events = (
        enqueued(),
        *begin(1.0),
        kill(1.5, "a"),
        *begin(3.2, epoch=2, worker="b"),
        *finish(4.0, epoch=2, worker="b"),
    )
    return Story(events, {"t": success(epoch=2, crashes=1)})


def stalled() -> Story:
    """A worker sleeps through its lease, and comes back when another one has finished its task."""
    late = (seen(Kind.DONE, 5.0), seen(Kind.SETTLED_LOST, 5.1, to="success"))
    events = (enqueued(), *begin(1.0), *begin(3.2, epoch=2, worker="b"), *finish(4.0, epoch=2, worker="b"), *late)
    return Story(events, {"t": success(epoch=2, crashes=1)}, replace(EXPECT, lost_leases=1))


def retried() -> Story:
    """The first attempt fails, and the second one succeeds at once."""
    failed = (seen(Kind.FAILED, 1.2), seen(Kind.SETTLED_OK, 1.3, to="pending"))
    events = (enqueued(), *begin(1.0), *failed, *begin(1.4, epoch=2), *finish(2.0, epoch=2))
    return Story(events, {"t": success(epoch=2, attempts=1)}, replace(EXPECT, max_attempts=1))


def family() -> Story:
    """A child runs after its parent."""
    parent, child = plain("p"), Story((*begin(3.0, "c"), *finish(4.0, "c")), {"c": success("c")})
    return Story((*parent.events, enqueued("c", 0.5, parents=["p"]), *child.events), parent.final | child.final)


def scheduled() -> Story:
    """A schedule fires two slots."""
    runs = [(f"s{n}", (*begin(n, f"s{n}"), *finish(n + 0.5, f"s{n}"))) for n in (1.0, 2.0)]
    final = {id_: success(id_, slot=("s", n)) for (id_, _), n in zip(runs, (10.0, 20.0), strict=True)}
    return Story(
        tuple(e for _, events in runs for e in events),
        final,
        replace(EXPECT, slots=frozenset({("s", 10.0), ("s", 20.0)})),
    )


def poisoned() -> Story:
    """A task kills its process three times, and is parked."""
    deaths = [
        (*begin(at, epoch=n, worker=f"w{n}"), kill(at + 0.2, f"w{n}")) for n, at in ((1, 1.0), (2, 4.0), (3, 7.0))
    ]
    final = Final(state=TaskState.ERROR, epoch=4, crashes=3)
    return Story(
        (enqueued(), *(e for death in deaths for e in death)), {"t": final}, replace(EXPECT, dead=frozenset("t"))
    )


def restarted(*, back_at: float = 3.0, worker: str = "b") -> Story:
    """The server is away from 1.5 to 2.5; one worker starts something new at 2.8, and another one at `back_at`.

    Until 11.0, there is always something to do.
    """
    runs = (
        (*begin(1.0, "t"), *finish(2.6, "t")),
        (*begin(2.7, "u"), *finish(3.5, "u")),
        (*begin(back_at - 0.1, "v", worker=worker), *finish(back_at + 0.5, "v", worker=worker)),
        (*begin(11.0, "w"), *finish(12.0, "w")),
    )
    events = (spawn(0.0, "a"), spawn(0.0, "b"), *(enqueued(id_) for id_ in "tuvw"), *outage(1.5, 2.5))
    return Story((*events, *(e for run in runs for e in run)), {id_: success(id_) for id_ in "tuvw"})


def outlived(id: str = "t", *, up: float = 4.0, again: float = 4.4) -> Story:
    """The server is away for longer than a lease: another worker runs the task when the server is back."""
    late = (seen(Kind.DONE, 1.8, id), seen(Kind.SETTLED_LOST, again + 0.3, id, to="success"))
    runs = (*begin(1.0, id), *begin(again, id, epoch=2, worker="b"), *finish(again + 1.0, id, epoch=2, worker="b"))
    return Story((enqueued(id), *outage(1.5, up), *runs, *late), {id: success(id, epoch=2, crashes=1)})


def rescued_late(at: float = 10.3) -> Story:
    """A worker is killed, then the server: the lease ends while it is away, and all have to come back first."""
    again = (*begin(at - 0.1, epoch=2, worker="b"), *finish(at + 1.0, epoch=2, worker="b"))
    return Story((enqueued(), *begin(1.0), kill(1.5), *outage(1.6, 4.0), *again), {"t": success(epoch=2, crashes=1)})


def deserted(*, at: float = 8.9) -> Story:
    """The only worker is killed, and the next one begins at 8.0, long after the lease has ended."""
    again = (*begin(at - 0.1, epoch=2, worker="b"), *finish(at + 1.0, epoch=2, worker="b"))
    events = (enqueued(), ready(0.5), *begin(1.0), kill(1.5), ready(8.0, "b"), *again)
    return Story(events, {"t": success(epoch=2, crashes=1)})


def frozen(*, thawed: float = 8.0) -> Story:
    """As `deserted`, but the other worker is only stopped when the first one is killed."""
    events = (ready(0.6, "b"), seen(Kind.FREEZE, 1.4, "", worker="b"), seen(Kind.THAW, thawed, "", worker="b"))
    return replace(deserted(), events=deserted().minus(Kind.READY).plus(ready(0.5), *events).events)


def given_back_unseen() -> Story:
    """An attempt fails, and the server dies when it has noted that, but not said so: its holder asks once more."""
    lost = (seen(Kind.FAILED, 1.2), *outage(1.3, 1.6), seen(Kind.SETTLED_LOST, 2.0, to="pending"))
    again = (*begin(1.8, epoch=2, worker="b"), *finish(2.5, epoch=2, worker="b"))
    return Story((enqueued(), *begin(1.0), *lost, *again), {"t": success(epoch=2, attempts=1)}, retried().expect)
