"""The tests run on the event loop that users get, and on the other one where that is asked for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from omniq.sync import Portal, new_event_loop

ROOT = Path(__file__).parents[2]
ITSELF = f"{Path(__file__).relative_to(ROOT)}::test_a_test_runs_on_what_omniq_runs_on"


async def test_a_test_runs_on_what_omniq_runs_on(pytestconfig: pytest.Config) -> None:
    portal, made = Portal("loop-of-users"), new_event_loop()
    try:
        loops = {type(loop) for loop in (asyncio.get_running_loop(), portal.loop, made)}
        assert {loop.__module__.split(".")[0] for loop in loops} == {pytestconfig.option.loop}
    finally:
        portal.stop()
        made.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.slow
def test_the_loop_can_be_chosen(loop: str) -> None:
    if find_spec(loop) is None:
        pytest.skip(f"needs {loop}, which isn't installed")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--loop", loop, ITSELF]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stdout
    assert f"\nevent loop: {loop}" in ran.stdout
