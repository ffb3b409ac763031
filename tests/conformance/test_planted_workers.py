"""The suite for workers has teeth: each broken one fails the requirement that it doesn't fulfil."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omniq.testing.conformance import WorkerConformance, requirements
from omniq.testing.conformance.base import areas_of

from tests.conformance import planted_workers
from tests.conformance.planted_workers import PLANTED, Planted

FILE = Path(planted_workers.__file__)
NODES = {
    area.requirement_of(name).id: f"{attribute}::{name}"
    for attribute, area in areas_of(WorkerConformance)
    for name in area.names()
}


def node_of(each: Planted) -> str:
    """The test of its requirement on the broken worker."""
    return f"Test{each.runner.__name__}::{NODES[each.requirement]}"


@pytest.fixture(scope="module")
def failed() -> set[str]:
    """Those of these tests that fail; they are run at one go."""
    wanted = [f"{FILE}::{node_of(each)}" for each in PLANTED]
    command = [sys.executable, "-m", "pytest", "-n", "2", "-rA", "--tb=no", "-q", "-p", "no:cacheprovider", *wanted]
    run = subprocess.run(command, capture_output=True, text=True, cwd=FILE.parents[2], timeout=110, check=False)
    lines = [line.split(" ") for line in run.stdout.splitlines() if "::" in line]
    assert lines, run.stdout + run.stderr
    return {node.partition("::")[2].partition("[")[0] for verdict, node, *_ in lines if verdict == "FAILED"}


@pytest.mark.parametrize("each", PLANTED, ids=lambda each: f"{each.runner.__name__}-{each.requirement}")
@pytest.mark.slow
def test_a_broken_worker_is_noticed(failed: set[str], each: Planted) -> None:
    assert node_of(each) in failed


def test_requirements_of_workers_have_ids_and_levels() -> None:
    levels = {requirement.id: requirement.level for requirement in requirements(WorkerConformance)}
    assert levels["worker.run.a_sync_function_runs"] == "required"
    assert levels["worker.timeout.the_slot_of_a_late_task_is_free"] == "preempts"
    assert levels["worker.death.only_the_task_that_killed_its_process_is_charged"] == "isolates"
    assert len(levels) > 50
