"""One worker of each way to be stopped; `python -m tests.reliability.stops` does so twenty times, with each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.stops import Stops

pytestmark = [pytest.mark.slow, pytest.mark.starvable]


async def test_what_was_begun_ends_and_what_was_not_goes_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/{{project}}.db?synchronous=NORMAL"
    seen = await Stops(url, tmp_path, kind="async").run(cycles=1)
    assert seen.failures == []
