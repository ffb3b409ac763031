"""The checker is held against seeded faults: each is caught by the invariant that it breaks, and by no other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from omniq.models.state import TaskState

from tests.reliability import history, stories
from tests.reliability.history import History, Kind
from tests.reliability.invariants import INVARIANTS
from tests.reliability.run import Final
from tests.reliability.stories import (
    Story,
    begin,
    enqueued,
    family,
    finish,
    kill,
    plain,
    poisoned,
    rescued,
    retried,
    scheduled,
    seen,
    stalled,
    success,
)

RUNNING = Final(state=TaskState.RUNNING, epoch=1)
DEAD = Final(state=TaskState.ERROR, epoch=1)

GOOD: list[Callable[[], Story]] = [plain, rescued, stalled, retried, family, scheduled, poisoned]

FAULTS: dict[str, tuple[str, Story]] = {
    "a task vanishes from the store": ("I1", replace(plain(), final={})),
    "a task is left running": ("I1", plain().but(ending={"t": RUNNING})),
    "the store holds what nobody enqueued": ("I2", plain().but(ending={"x": success("x")})),
    "a task runs that nobody enqueued": ("I2", plain().minus(Kind.ENQ_OK)),
    "two workers get the same claim": ("I3", plain().plus(seen(Kind.START, 1.2, worker="b"))),
    "a late finish is accepted": ("I4", stalled().plus(seen(Kind.SETTLED_OK, 5.2, to="success"))),
    "a finished task starts again": ("I5", plain().plus(*begin(5.0, epoch=2))),
    "a late worker starts a finished task": ("I5", stalled().moved(Kind.START, 1, 4.5)),
    "a late worker's result wins": ("I6", stalled().but(ending={"t": success(epoch=2, result_epoch=1)})),
    "a success has no result": ("I6", plain().but(ending={"t": Final(state=TaskState.SUCCESS, epoch=1)})),
    "a success that never returned": ("I6", plain().minus(Kind.DONE)),
    "a task is handed on early": ("I7", rescued().moved(Kind.START, 2, 2.6)),
    "an unstarted task is handed on early": (
        "I7",
        rescued().minus(Kind.START, epoch=1).minus(Kind.KILL).moved(Kind.START, 2, 2.6),
    ),
    "a renewed lease is ignored": ("I7", rescued().plus(seen(Kind.BEAT, 1.45))),
    "a task is handed on early, with no claims logged": ("I7", rescued().minus(Kind.CLAIM).moved(Kind.START, 2, 2.0)),
    "a living worker loses its lease": ("I8", stalled().but(expect=stories.EXPECT)),
    "attempts are charged beyond the limit": ("I9", retried().but(ending={"t": success(epoch=2, attempts=2)})),
    "crashes are charged beyond the limit": ("I9", rescued().but(ending={"t": success(epoch=2, crashes=4)})),
    "a child starts before its parent returns": ("I10", family().moved(Kind.START, 1, 1.1)),
    "a slot is fired twice": (
        "I11",
        scheduled().plus(*begin(3.0, "x"), *finish(3.5, "x")).but(ending={"x": success("x", slot=("s", 20.0))}),
    ),
    "a slot is left out": ("I11", scheduled().but(expect=replace(stories.EXPECT, slots=frozenset({("s", 10.0)})))),
    "an innocent is dead-lettered": ("I12", plain().but(ending={"t": DEAD})),
    "poison is not parked": ("I12", poisoned().plus(*finish(10.0, epoch=4)).but(ending={"t": success(epoch=4)})),
    "recovery takes too long": ("I13", rescued().delayed(2, by=2.0)),
}


@pytest.mark.parametrize("story", GOOD, ids=lambda story: str(story.__name__))
def test_a_good_run_passes(story: Callable[[], Story]) -> None:
    report = story().report()
    assert report.ok, str(report)
    assert report.starts > 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_by_its_invariant_alone(fault: str) -> None:
    invariant, story = FAULTS[fault]
    report = story.report()
    assert report.broken == {invariant}, str(report)


def test_every_invariant_has_a_fault() -> None:
    assert {invariant for invariant, _ in FAULTS.values()} == set(INVARIANTS)


def test_every_invariant_says_what_it_promises() -> None:
    assert all((invariant.__doc__ or "").splitlines()[0].endswith(".") for invariant in INVARIANTS.values())


class TestWhatIsNotAFault:
    """Histories that look odd and are honest."""

    def test_a_finish_that_the_killed_worker_could_not_log(self) -> None:
        story = plain().minus(Kind.SETTLED_OK).plus(kill(2.1))
        assert story.report().ok

    def test_a_retry_that_the_killed_worker_could_not_log(self) -> None:
        story = retried().minus(Kind.SETTLED_OK, epoch=1).plus(kill(1.35))
        again = replace(story, events=tuple(replace(e, worker="b") if e.epoch == 2 else e for e in story.events))
        assert again.report().ok, str(again.report())

    def test_a_task_of_which_nobody_knows_whether_it_was_enqueued(self) -> None:
        unknown = replace(enqueued("u"), kind=Kind.ENQ_UNKNOWN)
        assert plain().plus(unknown).report().ok

    def test_a_claim_that_was_handed_back_unstarted(self) -> None:
        back = (seen(Kind.CLAIM, 0.2), seen(Kind.SETTLED_OK, 0.3, to="pending"))
        story = Story((enqueued(), *back, *begin(0.5, epoch=2), *finish(1.0, epoch=2)), {"t": success(epoch=2)})
        assert story.report().ok

    def test_a_lease_that_ran_out_before_the_task_was_started(self) -> None:
        story = rescued().minus(Kind.START, epoch=1).minus(Kind.KILL)
        assert story.report().ok, str(story.report())

    def test_a_recovery_whose_rescuer_was_killed_before_it_started(self) -> None:
        lost = (seen(Kind.CLAIM, 4.0, epoch=2, worker="b"), kill(4.1, "b"))
        end = (*begin(7.5, epoch=3, worker="c"), *finish(8.0, epoch=3, worker="c"))
        story = Story((enqueued(), *begin(1.0), kill(1.5), *lost, *end), {"t": success(epoch=3, crashes=2)})
        assert story.report().ok, str(story.report())


def test_a_report_tells_what_it_looked_at() -> None:
    report = rescued().report()
    assert (report.tasks, report.starts, report.kills, report.cut, report.re_executions) == (1, 2, 1, 1, 1)
    assert report.slowest_recovery == pytest.approx(1.8)
    assert "1 kills that cut 1 starts short" in str(report)


def test_a_report_is_cut_short_when_much_is_broken() -> None:
    many = Story(tuple(enqueued(f"t{n}") for n in range(30)), {})
    assert str(many.report()).endswith("and 10 more")


class TestHistory:
    """The log itself."""

    def test_events_come_back_as_written(self, tmp_path: Path) -> None:
        log = History(tmp_path / "log", worker="w")
        log.enqueued("t", ["p"])
        log.claim("t", 1, asked_at=5.0)
        log.beat("t", 1, asked_at=6.0)
        log.start("t", 1)
        log.done("t", 1, "v")
        log.settled("t", 1, "success", accepted=True)
        log.kill("w", 7)
        log.close()
        events = history.read(tmp_path / "log")
        assert [e.kind for e in events] == ["enq_ok", "claim", "beat", "start", "done", "settled_ok", "kill"]
        assert (events[0].parents, events[1].time, events[4].value, events[3].pid) == (("p",), 5.0, "v", os.getpid())
        assert {e.worker for e in events[1:]} == {"w"}

    def test_lines_of_many_writers_stay_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        code = (
            "import sys, pathlib; from tests.reliability.history import History; "
            "from tests.reliability.test_checker import write_many; write_many(History(pathlib.Path(sys.argv[1])))"
        )
        processes = [subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=_root()) for _ in range(3)]
        log = History(path)
        threads = [threading.Thread(target=write_many, args=(log,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [process.wait() for process in processes] == [0, 0, 0]
        assert len(history.read(path)) == 2500
        log.close()

    def test_a_damaged_line_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_text('{"kind":"start"')
        with pytest.raises(msgspec.DecodeError):
            history.read(tmp_path / "log")


def write_many(log: History) -> None:
    """Write 500 lines of some 350 bytes."""
    for epoch in range(500):
        log.start("t" * 300, epoch)


def _root() -> Path:
    return Path(__file__).parents[2]
