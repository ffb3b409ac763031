"""Workers on files are killed, and sleep through their leases; the outside history must show every promise kept.

At length: `python -m tests.reliability.soak --url file:///new/folder --tasks 3000 --kills 20 --stalls 6`, and with
`--server s3` instead of `--url` on objects.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability import scenarios
from tests.reliability.harness import run

pytestmark = [pytest.mark.starvable, pytest.mark.slow]


def test_kills_lose_nothing_and_repeat_nothing_that_was_finished(tmp_path: Path) -> None:
    scenario = scenarios.kills("async", tasks=300, kills=4, stalls=1)
    outcome = run(scenario, f"file://{tmp_path}/omniq", tmp_path)
    assert outcome.report.ok, str(outcome)
    assert (outcome.report.kills, outcome.unfinished) == (4, 0), str(outcome)


def test_a_worker_that_comes_back_late_changes_nothing(tmp_path: Path) -> None:
    outcome = run(scenarios.stalls("async"), f"file://{tmp_path}/omniq", tmp_path)
    assert outcome.report.ok, str(outcome)
    assert outcome.report.re_executions > 0, "nobody slept through a lease: the scenario showed nothing"
