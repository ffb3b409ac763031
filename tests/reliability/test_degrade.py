"""The result store is killed for a few seconds under load; `python -m tests.reliability.degrade` does so for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.degrade import Play
from tests.reliability.servers import running

pytestmark = [pytest.mark.server, pytest.mark.starvable]


async def test_nothing_runs_again_and_all_is_settled_soon(tmp_path: Path) -> None:
    with running("redis") as server:
        seen = await Play(server, tmp_path, down=2.0, lease=10.0, worker="thread").run()
    assert seen.failures == []
