"""The server is killed too while tasks are worked off; the outside history must show every promise kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability import scenarios
from tests.reliability.harness import Outcome, run
from tests.reliability.scenario import Scenario
from tests.reliability.servers import POSTGRES, running

pytestmark = [pytest.mark.starvable, pytest.mark.slow, pytest.mark.server]

REDIS = "redis"


def play(scenario: Scenario, kind: str, directory: Path) -> Outcome:
    with running(kind) as server:
        return run(scenario, server.url, directory, server=server)


@pytest.mark.parametrize("kind", [POSTGRES, REDIS])
def test_a_server_that_is_killed_takes_nothing_along_and_all_workers_come_back(kind: str, tmp_path: Path) -> None:
    outcome = play(scenarios.outages("async"), kind, tmp_path)
    assert outcome.report.ok, str(outcome)
    assert (outcome.report.kills, outcome.report.outages, outcome.unfinished) == (3, 1, 0), str(outcome)
    assert outcome.report.comebacks >= 3, "hardly a worker lived through the outage: the scenario showed nothing"
    assert not outcome.complaints, str(outcome)


def test_workers_that_do_not_come_back_are_caught(tmp_path: Path) -> None:
    outcome = play(scenarios.outages("async", kills=0, plant="sulk"), REDIS, tmp_path)
    assert outcome.report.broken == {"I14"}, str(outcome)
