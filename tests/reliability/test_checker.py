"""The checker is held against seeded faults: each is caught by the invariant that it breaks, and by no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace
from omniq.models.task import TaskState

from tests.reliability import stories
from tests.reliability.history import Kind
from tests.reliability.invariants import INVARIANTS
from tests.reliability.run import Final
from tests.reliability.stories import (
    Story,
    begin,
    both,
    deserted,
    enqueued,
    family,
    finish,
    frozen,
    given_back_unseen,
    kill,
    leave,
    outage,
    outlived,
    plain,
    poisoned,
    ready,
    rescued,
    rescued_late,
    restarted,
    retried,
    scheduled,
    seen,
    spawn,
    stalled,
    success,
)

RUNNING = Final(state=TaskState.RUNNING, epoch=1)
DEAD = Final(state=TaskState.ERROR, epoch=1)

GOOD: list[Callable[[], Story]] = [
    plain,
    rescued,
    stalled,
    retried,
    family,
    scheduled,
    poisoned,
    restarted,
    outlived,
    rescued_late,
    deserted,
    frozen,
    given_back_unseen,
]

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
    "a failed task is handed on early": ("I7", given_back_unseen().minus(Kind.SERVER_DOWN).minus(Kind.SERVER_UP)),
    "a failed task is handed on early after an outage": (
        "I7",
        given_back_unseen().minus(Kind.SERVER_DOWN).minus(Kind.SERVER_UP).plus(*outage(0.2, 0.5)),
    ),
    "a living worker loses its lease": ("I8", stalled().but(expect=stories.EXPECT)),
    "a worker loses its lease before it is killed": ("I8", stalled().but(expect=stories.EXPECT).plus(kill(9.0))),
    "a living worker loses its lease before an outage": (
        "I8",
        stalled().but(expect=stories.EXPECT).plus(*outage(6.0, 7.0)),
    ),
    "a lease isn't renewed after an outage": ("I8", outlived(up=2.0, again=3.2)),
    "a lease is lost that was renewed after the outage": (
        "I8",
        outlived(again=6.3).plus(seen(Kind.BEAT, 4.1)),
    ),
    "an outage repeats more than a worker can hold": ("I8", both(outlived("t"), outlived("u"))),
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
    "recovery takes too long": ("I13", rescued().delayed(2, by=4.0)),
    "recovery takes too long after an outage": ("I13", rescued_late(at=10.6)),
    "recovery takes too long once a worker has begun": ("I13", deserted(at=10.1)),
    "recovery takes too long while a worker lives": ("I13", deserted().plus(ready(0.6, "c"))),
    "recovery takes too long once a worker goes on": ("I13", frozen(thawed=5.0)),
    "a worker doesn't come back": ("I14", restarted(back_at=7.6)),
    "a worker only starts what it had claimed before": (
        "I14",
        restarted(back_at=7.6)
        .plus(enqueued("x"), seen(Kind.CLAIM, 1.4, "x", worker="b"), seen(Kind.START, 2.7, "x", worker="b"))
        .plus(*finish(3.0, "x", worker="b"))
        .but(ending={"x": success("x")}),
    ),
    "a worker that is started after the outage doesn't begin": ("I14", restarted().plus(spawn(4.0, "c"))),
    "a worker gives up": ("I15", restarted().plus(leave(9.0, "b", code=1))),
    "a worker doesn't find the server that is there": ("I15", restarted().plus(spawn(3.0, "c"), leave(4.0, "c"))),
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

    def test_a_lease_that_ends_before_it_can_be_renewed_after_an_outage(self) -> None:
        story = outlived(up=2.6, again=3.2)
        assert story.report().ok, str(story.report())

    def test_a_worker_that_is_killed_after_an_outage_has_cost_it_a_lease_and_holds_another_one(self) -> None:
        lost = (*begin(1.0), *outage(1.5, 4.0), seen(Kind.SETTLED_LOST, 4.3, to="success"))
        cut = (enqueued("x"), *begin(4.5, "x"), kill(5.0))
        again = [
            e for at, id_ in ((6.0, "t"), (7.2, "x")) for e in (*begin(at, id_, 2, "b"), *finish(at + 1, id_, 2, "b"))
        ]
        final = {id_: success(id_, epoch=2, crashes=1) for id_ in "tx"}
        story = Story((enqueued(), *lost, *cut, *again), final)
        assert story.report().ok, str(story.report())

    def test_a_worker_that_finds_the_server_away_when_it_starts(self) -> None:
        story = restarted().plus(spawn(2.0, "c"), leave(2.4, "c"))
        assert story.report().ok, str(story.report())

    def test_a_worker_that_is_started_after_the_outage_and_takes_its_time(self) -> None:
        run = (*begin(8.5, "x", worker="c"), *finish(9.0, "x", worker="c"))
        story = restarted().plus(enqueued("x"), spawn(4.0, "c"), *run).but(ending={"x": success("x")})
        assert story.report().ok, str(story.report())

    def test_a_worker_that_is_killed_before_it_must_be_back(self) -> None:
        story = restarted(back_at=7.6, worker="a").plus(kill(7.4, "b"))
        assert story.report().ok, str(story.report())

    def test_a_worker_to_which_the_server_is_lost_again_before_it_must_be_back(self) -> None:
        story = restarted(back_at=9.0).plus(*outage(7.0, 8.0))
        assert story.report().ok, str(story.report())

    def test_a_worker_for_which_there_was_nothing_to_do_for_a_moment(self) -> None:
        story = restarted(back_at=7.6).moved(Kind.ENQ_OK, 0, 2.52)
        assert story.report().ok, str(story.report())


def test_a_report_tells_what_it_looked_at() -> None:
    report = rescued().report()
    assert (report.tasks, report.starts, report.kills, report.cut, report.re_executions) == (1, 2, 1, 1, 1)
    assert report.slowest_recovery == pytest.approx(1.8)
    assert "1 kills that cut 1 starts short" in str(report)


def test_a_report_takes_no_retry_that_waits_for_its_delay_for_a_recovery() -> None:
    assert rescued().plus(seen(Kind.FAILED, 1.4)).report().slowest_recovery == 0


def test_a_report_tells_how_workers_came_back() -> None:
    report = restarted(back_at=4.2).report()
    assert (report.outages, report.comebacks) == (1, 2)
    assert report.slowest_comeback == pytest.approx(1.7)
    assert "1 server kills, after which workers came back 2 times, slowest 1.70 s" in str(report)


def test_a_report_tells_only_of_comebacks_to_work_that_was_there() -> None:
    report = restarted(back_at=9.0).moved(Kind.ENQ_OK, 0, 2.55).report()
    assert (report.outages, report.comebacks) == (1, 0)


def test_a_report_is_cut_short_when_much_is_broken() -> None:
    many = Story(tuple(enqueued(f"t{n}") for n in range(30)), {})
    assert str(many.report()).endswith("and 10 more")
