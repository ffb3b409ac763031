"""Workers are killed, frozen and poisoned while they work; the outside history must show every promise kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability import scenarios
from tests.reliability.harness import Outcome, run
from tests.reliability.planted import PLANTS
from tests.reliability.scenario import Scenario

pytestmark = [pytest.mark.starvable, pytest.mark.slow]

WORKERS = ("async", "thread", "process")
TROUBLE = ("can't be", "failed, trying again", "CRITICAL", "Traceback")
"""Words in a worker's log that tell of more than a lease that ran out or a task that failed."""


def play(scenario: Scenario, directory: Path) -> Outcome:
    return run(scenario, f"sqlite:///{directory}/queue.db", directory)


def trouble(outcome: Outcome) -> list[str]:
    """Complaints that no scenario accounts for."""
    return [line for line in outcome.complaints if any(word in line for word in TROUBLE)]


@pytest.mark.parametrize("worker_type", WORKERS)
def test_kills_lose_nothing_and_repeat_nothing_that_was_finished(worker_type: str, tmp_path: Path) -> None:
    outcome = play(scenarios.kills(worker_type), tmp_path)
    assert outcome.report.ok, str(outcome)
    assert outcome.report.kills == 6
    assert not trouble(outcome), str(outcome)


@pytest.mark.parametrize("worker_type", WORKERS)
def test_a_worker_that_comes_back_late_changes_nothing(worker_type: str, tmp_path: Path) -> None:
    outcome = play(scenarios.stalls(worker_type), tmp_path)
    assert outcome.report.ok, str(outcome)
    assert outcome.report.re_executions > 0, "nobody slept through a lease: the scenario showed nothing"


@pytest.mark.parametrize("worker_type", ["async", "process"])  # with threads, it is the same claims that are given up
def test_a_worker_that_comes_back_late_starts_nothing_that_others_have_finished(
    worker_type: str, tmp_path: Path
) -> None:
    outcome = play(scenarios.stalls(worker_type, tasks=100, seconds=0.3), tmp_path)
    assert outcome.report.ok, str(outcome)


@pytest.mark.parametrize(
    "worker_type", ["async", "thread"]
)  # what a child computes can't keep its parent from renewing
def test_a_task_that_computes_for_three_leases_runs_once(worker_type: str, tmp_path: Path) -> None:
    outcome = play(scenarios.computing(worker_type), tmp_path)
    assert outcome.report.ok, str(outcome)
    assert not outcome.complaints, str(outcome)


@pytest.mark.parametrize("worker_type", ["async", "process"])  # a thread takes its worker along as the loop does
def test_poison_is_parked_and_the_innocent_beside_it_succeed(worker_type: str, tmp_path: Path) -> None:
    outcome = play(scenarios.poison(worker_type), tmp_path)
    assert outcome.report.ok, str(outcome)


def test_every_slot_of_a_schedule_is_fired_once(tmp_path: Path) -> None:
    outcome = play(scenarios.ticks("async"), tmp_path)
    assert outcome.report.ok, str(outcome)
    assert outcome.report.tasks > 22, "the schedule fired less than three times"


def test_workers_in_each_others_way_have_no_trouble(tmp_path: Path) -> None:
    outcome = play(scenarios.crowd("async"), tmp_path)
    assert outcome.report.ok, str(outcome)
    assert not outcome.complaints, str(outcome)


CAUGHT: dict[str, tuple[Callable[..., Scenario], set[str]]] = {
    "drop-epoch-check": (scenarios.stalls, {"I4", "I6"}),
    "acknowledge-first": (scenarios.kills, {"I6"}),
    "beat-on-the-loop": (scenarios.computing, {"I8"}),
    "no-quarantine": (scenarios.poison, {"I12"}),
}
"""By which scenario, and at least one of which invariants, a planted bug is caught."""


@pytest.mark.parametrize("plant", CAUGHT)
def test_a_planted_bug_is_caught(plant: str, tmp_path: Path) -> None:
    scenario, invariants = CAUGHT[plant]
    outcome = play(scenario("async", plant=plant), tmp_path)
    assert outcome.report.broken & invariants, str(outcome)


def test_transactions_that_begin_by_reading_are_caught(tmp_path: Path) -> None:
    outcome = play(scenarios.crowd("async", plant="read-then-write"), tmp_path)
    assert trouble(outcome), str(outcome)


def test_every_planted_bug_is_tried() -> None:
    elsewhere = {"read-then-write", "sulk"}
    assert {*CAUGHT} | elsewhere == set(PLANTS)
