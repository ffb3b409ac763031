"""Programs on object stores, and what becomes of them when the server goes away."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest
from omniq import AsyncOmniQ
from omniq.errors import StoreUnavailable
from omniq_fsspec import filesystems

from tests.core import tasks
from tests.servers.objects import ObjectPlace, ObjectServer

PROGRAM = """
import sys
from omniq import OmniQ

with OmniQ.from_dict({"task_queue": {"url": sys.argv[1]}}) as oq:
    oq.start_worker()
    print(oq.get_result(oq.enqueue(sum, [[1, 2, 3]]), timeout=60))
"""


def test_a_program_says_nothing_but_what_it_prints(object_place: ObjectPlace) -> None:
    """At its end neither: some filesystems close themselves once more then."""
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", PROGRAM, object_place.url_with_options]
    environment = {**os.environ, "OMNIQ_SIGNING_KEY": "s" * 32}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("6\n", "", 0)


@pytest.mark.slow
@pytest.mark.parametrize("object_server", ["s3"], indirect=True)  # the clients of others repeat for half a minute
async def test_a_worker_outlasts_its_server(object_server: ObjectServer) -> None:
    async with AsyncOmniQ.from_dict({"task_queue": {"url": object_server.url}}) as oq:
        await oq.start_worker("async")
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=60) == 3
        object_server.kill()
        with pytest.raises(StoreUnavailable):
            await oq.enqueue(tasks.add, [2, 2], task_id="refused")
        object_server.start()
        if object_server.keeps:
            again = await oq.enqueue(tasks.add, [2, 2], task_id="refused")
            assert await oq.get_result(again, timeout=60) == 4


@pytest.mark.slow
async def test_a_call_gives_up_on_a_server_that_is_silent(
    object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncOmniQ.from_dict({"task_queue": {"url": object_server.url}}) as oq:
        await oq.enqueue(tasks.add, [1, 2])
        monkeypatch.setattr(filesystems, "PATIENCE", 1.0)
        object_server.freeze()
        try:
            async with asyncio.timeout(20):
                with pytest.raises(StoreUnavailable):
                    await oq.enqueue(tasks.add, [2, 2])
        finally:
            object_server.thaw()
        task = await oq.enqueue(tasks.add, [2, 3])
        assert await oq.get_task(task) is not None
