"""Programs that gevent has patched, and that enqueue, wait and work: they work, whatever is patched and when."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gevent", reason="omniq-gevent isn't installed")

PROGRAM = """
import sys
patch, url, kind = sys.argv[1:]
if patch == "first":
    from gevent import monkey; monkey.patch_all()
elif patch == "without threads":
    from gevent import monkey; monkey.patch_all(thread=False)
import operator
from omniq import OmniQ
if patch == "after the import":
    from gevent import monkey; monkey.patch_all()
import gevent
with OmniQ(config={"task_queue": {"url": url}}) as oq:
    first = oq.enqueue(operator.add, [1, 2])
    greenlets = [gevent.spawn(oq.enqueue, operator.add, [1, n]) for n in range(50)]
    gevent.joinall(greenlets, raise_error=True)
    if kind:
        oq.start_worker(kind, max_workers=4)
        beside = gevent.spawn(oq.get_result, first, timeout=60)
        print(sum(oq.get_result(greenlet.value, timeout=60) for greenlet in greenlets), beside.get())
        oq.stop_worker()
print("closed")
"""

ASYNC_PROGRAM = """
import sys
from gevent import monkey; monkey.patch_all()
import asyncio, operator
from omniq import AsyncOmniQ
async def main():
    async with AsyncOmniQ(config={"task_queue": {"url": sys.argv[1]}}) as oq:
        task_id = await oq.enqueue(operator.add, [1, 2])
        await oq.start_worker("async")
        print(await oq.get_result(task_id, timeout=60))
        await oq.stop_worker()
asyncio.run(main())
print("closed")
"""


def output(program: str, *arguments: str) -> list[str]:
    """What the program prints, which mustn't hang."""
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("patch", ["first", "without threads", "after the import"])
def test_on_sqlite(tmp_path: Path, patch: str) -> None:
    assert output(PROGRAM, patch, f"sqlite:///{tmp_path}/q.db", "thread") == ["1275 3", "closed"]


def test_with_an_async_worker(tmp_path: Path) -> None:
    assert output(PROGRAM, "first", f"sqlite:///{tmp_path}/q.db", "async") == ["1275 3", "closed"]


@pytest.mark.parametrize("kind", ["process", "gevent"])
def test_workers_with_processes_are_refused_with_advice(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, "first", f"sqlite:///{tmp_path}/q.db", kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "run it by `omniq worker`" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("url", ["memory://", "file://{}/q"])
def test_on_files_and_in_memory(tmp_path: Path, url: str) -> None:
    assert output(PROGRAM, "first", url.format(tmp_path), "thread") == ["1275 3", "closed"]


async def test_on_redis(redis_url: str) -> None:
    assert output(PROGRAM, "first", redis_url, "thread") == ["1275 3", "closed"]


async def test_on_postgres(postgres_url: str) -> None:
    assert output(PROGRAM, "first", postgres_url, "thread") == ["1275 3", "closed"]


def test_asyncio_in_such_a_program(tmp_path: Path) -> None:
    assert output(ASYNC_PROGRAM, f"sqlite:///{tmp_path}/q.db") == ["3", "closed"]
