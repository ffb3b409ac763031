"""OmniQ's promises, each as a function that yields what breaks it: task id and what happened.

What an invariant says is the first line of its docstring. None of them trusts the system under test: they
compare the outside history with the store's final states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain

from omniq.models.task import TaskState

from tests.reliability.history import UNREACHABLE, Event, Kind
from tests.reliability.returns import had_work, returns
from tests.reliability.run import Run, TaskLog

Broken = Iterator[tuple[str, str]]


def nothing_is_lost(run: Run) -> Broken:
    """Every acknowledged task is in the store and has ended."""
    for id_, task in run.tasks.items():
        if task.of(Kind.ENQ_OK):
            final = run.final.get(id_)
            if final is None:
                yield id_, "acknowledged, but not in the store"
            elif not final.state.is_terminal:
                yield id_, f"acknowledged, but still {final.state}"


def no_phantoms(run: Run) -> Broken:
    """Nothing runs or is stored that nobody enqueued and no schedule fired."""
    for id_ in dict.fromkeys(chain(run.final, run.tasks)):
        fired = id_ in run.final and run.final[id_].slot is not None
        if not fired and not (id_ in run.tasks and run.tasks[id_].enqueued):
            yield id_, "was never enqueued"


def claims_are_exclusive(run: Run) -> Broken:
    """A claim, which is a task's id and epoch, is started at most once."""
    for task in run.tasks.values():
        for epoch, count in Counter(start.epoch for start in task.starts).items():
            if count > 1:
                yield task.id, f"epoch {epoch} was started {count} times"


def one_accepted_finish(run: Run) -> Broken:
    """At most one finish is accepted, and it is that of the final epoch.

    A worker that is killed right after its finish was accepted can't log it, so none may be known.
    """
    for task, final in run.ended():
        epochs = [event.epoch for event in task.accepted]
        if epochs not in ([], [final.epoch]):
            yield task.id, f"finishes of epochs {epochs} were accepted; the final epoch is {final.epoch}"


def nothing_starts_after_the_end(run: Run) -> Broken:
    """No start follows the accepted finish, in time or in epoch."""
    for task, final in run.ended():
        end = min((event.time for event in task.accepted if event.epoch == final.epoch), default=None)
        for start in task.starts:
            if final.state.is_terminal and (start.epoch > final.epoch or (end is not None and start.time > end)):
                yield task.id, f"epoch {start.epoch} started after the finish of epoch {final.epoch}"


def result_is_of_the_final_epoch(run: Run) -> Broken:
    """The stored result of a success is what the function returned at the final epoch."""
    for task, final in run.ended():
        if final.state is TaskState.SUCCESS:
            returned = [event.value for event in task.of(Kind.DONE, epoch=final.epoch)]
            if final.result_epoch != final.epoch or final.result_value not in returned:
                yield (
                    task.id,
                    f"holds {final.result_value!r} of epoch {final.result_epoch}; epoch {final.epoch} gave {returned}",
                )


def leases_are_honoured(run: Run) -> Broken:
    """A task is handed on only when its lease ran out, or its holder gave it back.

    Nobody outside sees the lease itself. It lasts at least for `lease` after the holder asked for the claim
    or for the last renewal that was granted; the next start comes after the next claim. So a start less than
    a lease after either is too early for certain, give or take `slack`. Without a logged claim the start
    stands in for it, which may have come up to `start_wait` later.
    """
    for task in run.tasks.values():
        for epoch in sorted({event.epoch for event in task.of(Kind.CLAIM, Kind.START)}):
            later = task.next_start(epoch)
            if later is not None and not _may_have_been_given_back(run, task, epoch):
                early = run.held_from(task, epoch) + run.expect.lease - run.expect.slack - later.time
                if early > 0:
                    yield task.id, f"epoch {later.epoch} started {early:.3f} s before epoch {epoch}'s lease ended"


def re_executions_are_paid_for(run: Run) -> Broken:
    """Tasks run again only for what kills cut short, and for leases that outages or the run made workers lose.

    Retries and hand-backs are no re-executions.
    """
    again, allowed = run.unexplained(), run.expect.lost_leases
    if len(again) > allowed:
        for event in again:
            yield event.id, f"epoch {event.epoch} is one of {len(again)} unexplained re-executions; {allowed} may be"


def attempts_are_bounded(run: Run) -> Broken:
    """No task is charged more attempts or crashes than it may, or fails more often than that explains.

    A failure whose process is killed before it is settled costs a crash instead of an attempt.
    """
    attempts, crashes = run.expect.max_attempts, run.expect.max_crashes
    for id_, final in run.final.items():
        failed = len(run.tasks[id_].of(Kind.FAILED)) if id_ in run.tasks else 0
        if final.attempts > attempts or final.crashes > crashes or failed > attempts + final.crashes:
            yield (
                id_,
                f"was charged {final.attempts} attempts and {final.crashes} crashes, and failed {failed} times; "
                f"{attempts} and {crashes} are allowed",
            )


def parents_come_first(run: Run) -> Broken:
    """A child starts only after each of its parents has returned."""
    for task in run.tasks.values():
        for parent in task.parents if task.starts else ():
            returned = run.tasks[parent].of(Kind.DONE) if parent in run.tasks else []
            if not returned or returned[0].time > task.starts[0].time:
                yield task.id, f"started before its parent {parent} had returned"


def one_run_per_slot(run: Run) -> Broken:
    """Every slot of a schedule leads to one task that succeeds, and no other slot to any."""
    fired = Counter(final.slot for final in run.final.values() if final.slot is not None)
    for slot in fired.keys() | run.expect.slots:
        if fired[slot] != int(slot in run.expect.slots):
            yield slot[0], f"slot {slot[1]} was fired {fired[slot]} times"
    for id_, final in run.final.items():
        if final.slot is not None and final.state is not TaskState.SUCCESS:
            yield id_, f"of slot {final.slot[1]} is {final.state}"


def only_the_poisonous_are_dead(run: Run) -> Broken:
    """The dead-letter queue holds the tasks that must end there, and no others."""
    dead = {id_ for id_, final in run.final.items() if final.state is TaskState.ERROR}
    for id_ in dead - run.expect.dead:
        yield id_, "is a dead letter, innocently"
    for id_ in run.expect.dead - dead:
        yield id_, "should be a dead letter"


def recovery_is_prompt(run: Run) -> Broken:
    """What a killed process left unfinished starts again within 4/3 lease + reap interval + pick-up.

    Where epochs in between were never started (their process was killed as well, or they were handed
    back), each may have cost the same again. While the server is away, or no worker process lives, leases run
    out, but nobody can take note of it.
    """
    for cut in run.cuts():
        if cut.next_start is not None and cut.recovery is not None:
            allowed = _recovery_due(run, cut.killed_at, cut.next_start.epoch - cut.start.epoch) - cut.killed_at
            if cut.recovery > allowed:
                yield cut.task.id, f"started again {cut.recovery:.2f} s after the kill; {allowed:.2f} s are allowed"


def workers_come_back(run: Run) -> Broken:
    """Every worker process takes up new work within `comeback` of the server's return, if there is any.

    One that is started later has as long from its start on. What it had claimed before the server went down
    is no new work. It isn't judged if it is killed, or the server is, before its time is up.
    """
    for back in returns(run):
        due = back.since + run.expect.comeback
        late = back.first is None or back.first.time > due
        if late and due <= back.until and had_work(run, back.since, due):
            yield back.worker, f"took up nothing within {run.expect.comeback:g} s of the server's return"


def workers_live_on(run: Run) -> Broken:
    """No worker process ends by itself, but at its start, while the server is away."""
    for name, event in run.gone.items():
        if event.kind is Kind.EXIT and not _found_nobody(run, event):
            yield name, f"ended by itself with exit code {event.value}"


INVARIANTS: dict[str, Callable[[Run], Broken]] = {
    "I1": nothing_is_lost,
    "I2": no_phantoms,
    "I3": claims_are_exclusive,
    "I4": one_accepted_finish,
    "I5": nothing_starts_after_the_end,
    "I6": result_is_of_the_final_epoch,
    "I7": leases_are_honoured,
    "I8": re_executions_are_paid_for,
    "I9": attempts_are_bounded,
    "I10": parents_come_first,
    "I11": one_run_per_slot,
    "I12": only_the_poisonous_are_dead,
    "I13": recovery_is_prompt,
    "I14": workers_come_back,
    "I15": workers_live_on,
}


def _may_have_been_given_back(run: Run, task: TaskLog, epoch: int) -> bool:
    """Whether the holder gave the task back, or may just have done so unseen: it was killed then, or the server was."""
    if task.of(Kind.SETTLED_OK, epoch=epoch):
        return True
    seen = task.of(Kind.CLAIM, Kind.START, epoch=epoch)
    killed = any(event.worker in run.gone for event in seen)
    return _answer_was_lost(run, task, epoch) or bool(
        killed and (task.of(Kind.FAILED, epoch=epoch) or not task.of(Kind.START, epoch=epoch))
    )


def _answer_was_lost(run: Run, task: TaskLog, epoch: int) -> bool:
    """Whether a hand-back was refused after an outage, as it is when the one before it took effect unseen."""
    refused = [event for event in task.of(Kind.SETTLED_LOST, epoch=epoch) if event.to == TaskState.PENDING]
    asked_at = run.claimed_at(task, epoch)
    return any(asked_at < outage.down < event.time for event in refused for outage in run.outages)


def _recovery_due(run: Run, killed_at: float, epochs: int) -> float:
    """By when what a kill cut short must run again, if so many epochs, the last one not counted, came to nothing."""
    due = killed_at
    for step in (4 / 3 * run.expect.lease, run.expect.reap_interval, run.expect.pickup) * epochs:
        due = run.at_work(due + step)
    return due


def _found_nobody(run: Run, ended: Event) -> bool:
    """Whether the worker process ended because the server was away when it started."""
    began = run.spawned.get(ended.worker, ended.time)
    away = any(outage.down < ended.time and began < outage.up for outage in run.outages)
    return away and ended.value == str(UNREACHABLE)
