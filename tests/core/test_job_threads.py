"""Threads for drivers that block: they answer, end in order, and work to the interpreter's end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from functools import partial

import pytest
from omniq.errors import StoreUnavailable
from omniq.storage.documents import JobThreads


async def test_jobs_are_answered_and_raise() -> None:
    threads = JobThreads("test", 2)
    assert await threads.do(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await threads.do(lambda: 1 / 0)
    with pytest.raises(SystemExit):
        await threads.do(sys.exit)
    assert await asyncio.gather(*[threads.do(partial(abs, n)) for n in range(100)]) == list(range(100))
    threads.end().result(timeout=10)


async def test_as_many_run_at_once_as_there_are_threads() -> None:
    threads, barrier = JobThreads("test", 3), threading.Barrier(3)
    places = await asyncio.gather(*[threads.do(lambda: barrier.wait(timeout=10)) for _ in range(3)])
    assert sorted(places) == [0, 1, 2]
    threads.end().result(timeout=10)


async def test_the_end_comes_after_what_was_begun() -> None:
    threads, gate, done = JobThreads("test"), threading.Event(), list[str]()
    jobs = [
        asyncio.ensure_future(threads.do(lambda: gate.wait(10))),
        asyncio.ensure_future(threads.do(lambda: done.append("job"))),
    ]
    await asyncio.sleep(0)
    ended = threads.end(lambda: done.append("last"))
    assert not ended.done()
    gate.set()
    await asyncio.gather(*jobs)
    ended.result(timeout=10)
    assert done == ["job", "last"]


async def test_without_a_job_the_end_comes_at_once() -> None:
    done: list[str] = []
    assert JobThreads("test").end(lambda: done.append("last")).done()
    assert done == ["last"]


async def test_a_job_after_the_end_is_refused() -> None:
    threads = JobThreads("test")
    assert await threads.do(lambda: 42) == 42
    threads.end().result(timeout=10)
    with pytest.raises(StoreUnavailable, match="it was closed meanwhile"):
        await threads.do(lambda: 42)


async def test_an_error_of_the_last_job_is_told() -> None:
    with pytest.raises(ZeroDivisionError):
        JobThreads("test").end(lambda: print(1 / 0)).result(timeout=0)


async def test_a_cancelled_job_that_was_not_begun_is_not_done() -> None:
    threads, gate, done = JobThreads("test"), threading.Event(), list[str]()
    first = asyncio.ensure_future(threads.do(lambda: gate.wait(10)))
    second = asyncio.ensure_future(threads.do(lambda: done.append("second")))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.set()
    assert await first
    threads.end().result(timeout=10)
    assert done == []


def test_they_work_when_the_interpreter_ends() -> None:
    script = """
        import asyncio, atexit
        from omniq.storage.documents import JobThreads
        threads = JobThreads("test")
        asyncio.run(threads.do(lambda: "before"))  # Python 3.12 starts no thread at its end
        atexit.register(lambda: print(asyncio.run(threads.do(lambda: "at the end"))))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == "at the end\n"
