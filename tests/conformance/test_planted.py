"""The suite has teeth: each broken store fails the requirement that it doesn't fulfil, and the honest ones pass it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from omniq.testing import ReferenceQueueStore, VirtualClock
from omniq.testing.conformance import BackendConformance, requirements
from omniq.testing.conformance.base import areas_of
from omniq.testing.conformance.walks import Bench, machine_for

from tests.conformance import planted
from tests.conformance.planted import PLANTED, Planted, honest_one

FILE = Path(planted.__file__)
NODES = {
    f"{area.area}.{name.removeprefix('test_')}": f"{attribute}::{name}"
    for attribute, area in areas_of(BackendConformance)
    for name in area.names()
}


def nodes_of(each: Planted) -> tuple[str, str]:
    """The tests of its requirement: on the broken store, and on the one that it was."""
    test = NODES[each.requirement]
    return f"Test{each.broken.__name__}::{test}", f"Test{honest_one(each.broken).__name__}::{test}"


@pytest.fixture(scope="module")
def verdicts() -> dict[str, set[str]]:
    """The verdicts on each of these tests, which are run at one go: several, where it has parameters."""
    wanted = dict.fromkeys(f"{FILE}::{node}" for each in PLANTED for node in nodes_of(each))
    command = [sys.executable, "-m", "pytest", "-n", "2", "-rA", "--tb=no", "-q", "-p", "no:cacheprovider", *wanted]
    run = subprocess.run(command, capture_output=True, text=True, cwd=FILE.parents[2], timeout=110, check=False)
    found: dict[str, set[str]] = {}
    for line in run.stdout.splitlines():
        verdict, _, rest = line.partition(" ")
        if verdict in ("PASSED", "FAILED", "ERROR") and "::" in rest:
            node = rest.split(" ")[0].partition("::")[2].partition("[")[0]
            found.setdefault(node, set()).add(verdict)
    assert found, run.stdout + run.stderr
    return found


@pytest.mark.parametrize("each", PLANTED, ids=lambda each: f"{each.broken.__name__}-{each.requirement}")
@pytest.mark.slow
def test_a_broken_store_is_noticed(verdicts: dict[str, set[str]], each: Planted) -> None:
    broken, honest = nodes_of(each)
    assert "FAILED" in verdicts[broken]
    assert verdicts.get(honest, set()) <= {"PASSED"}  # none where the honest one doesn't declare what it is about


@pytest.mark.parametrize(
    "broken",
    [
        planted.IgnoresTheEpoch,
        planted.ExtendsForeignLeases,
        planted.RefusesRepeats,
        planted.ReadsThenWrites,
        planted.ForgetsParents,
        planted.ForgetsPauses,
    ],
)
async def test_a_random_walk_notices_a_broken_store(broken: type[ReferenceQueueStore]) -> None:
    bounds = settings(max_examples=500, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    with VirtualClock() as clock:
        machine = machine_for(Bench(broken(), asyncio.get_running_loop(), clock))
        with pytest.raises(AssertionError):
            await asyncio.to_thread(run_state_machine_as_test, machine, settings=bounds)


def test_no_requirement_hides_another() -> None:
    ids = [requirement.id for requirement in requirements()]
    assert len(ids) == len(set(ids))
    for _, area in areas_of(BackendConformance):
        names = [name for base in area.__mro__ for name in vars(base) if name.startswith("test_")]
        assert len(names) == len(set(names)), area.area
