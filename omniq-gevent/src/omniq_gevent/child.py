"""A child process whose tasks are greenlets."""

from __future__ import annotations

import omniq_gevent.patched  # noqa: F401  (before all else, so that everything finds what it has patched)

# isort: split
import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final

import gevent
from gevent import monkey
from gevent.event import AsyncResult, Event
from msgspec import Struct
from omniq.config import settings
from omniq.errors import SerializationError, TaskTimeout
from omniq.loops import keep_to_ourselves, run_once
from omniq.models.result import Progress
from omniq.serialization.codec import LoadedCall
from omniq.threads import new_native_loop, new_queue, start_thread
from omniq.workers import messages
from omniq.workers.async_ import JobTask
from omniq.workers.child import Line, MemoryLimit, initialize, leave_signals_to_the_worker
from omniq.workers.execution import Execution, failure, is_async, within
from omniq.workers.jobs import Job, RunResult, RunStatus
from omniq.workers.stacks import Stack, of_coroutine, of_frames, of_threads
from omniq.workers.thread_loop import ThreadState

HUB_PATIENCE: Final = 0.5
"""Seconds that the hub has to tell where the tasks are, before the one is to blame that lets nobody else run."""


class AsyncSide:
    """An event loop on a thread of the system, for all async tasks: none can stop it, or cancel what others run.

    It is there before the first task: that one, and those beside it, may use up all descriptors.
    """

    def __init__(self) -> None:
        self._loop = new_native_loop()
        keep_to_ourselves(self._loop)
        start_thread(self._run, "omniq-async")

    def call_soon(self, function: Any, *args: Any) -> None:
        """Call it on the loop; from any thread."""
        self._loop.call_soon_threadsafe(function, *args, context=Context())

    @staticmethod
    def begin(run: Run, coroutine: Coroutine[Any, Any, Any], ended: Callable[[Any], object]) -> None:
        """Run what is awaited for a task, in a copy of this context, and tell when it has ended. On the loop."""
        run.task = task = JobTask(coroutine, loop=asyncio.get_running_loop(), name=run.job.record.id)
        task.job = run.job
        task.add_done_callback(ended)
        if run.job.cancelled:
            task.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while True:
            run_once(self._loop)


class Run(Struct, eq=False):
    """A task that runs."""

    number: int
    job: Job
    greenlet: gevent.Greenlet[..., None] | None = None
    task: asyncio.Task[Any] | None = None
    ran: RunResult | None = None
    """What came of it, if it is async and has run."""
    interruptible: bool = False
    """Whether its greenlet is inside the task's own code."""


class Greenlets:
    """Runs each task on a greenlet, or on the loop if it is async, and takes orders meanwhile."""

    def __init__(self, line: Line, greeting: messages.Greeting) -> None:
        self._line = line
        self._execution = Execution(greeting.security, greeting.max_result)
        self._execution.on_report = self._tell
        self._memory = MemoryLimit(greeting.max_memory)
        # Looked at after each task: another greenlet may open a file at once, which must not be a standard one.
        self._state = ThreadState(interval=0.0)
        self._async = AsyncSide()
        self._runs: dict[int, Run] = {}
        self._numbers: dict[Job, int] = {}
        self._hub = gevent.get_hub()
        self._hub.SYSTEM_ERROR = ()  # a greenlet that a task has started may exit: that ends nobody else
        self._said: deque[tuple[bytes, ...]] = deque()
        self._has_said = Event()

    def serve(self) -> None:
        """Take orders until the worker hangs up."""
        gevent.spawn(self._speak)
        with suppress(EOFError):
            while True:
                self._obey(*self._line.next_order())

    # ── orders ───────────────────────────────────────────────────────────────

    def _obey(self, order: messages.Order, body: bytes) -> None:
        if isinstance(order, messages.StopTask):
            if (run := self._runs.get(order.number)) is not None:
                self._stop(run, order)
            return
        run = self._runs[order.number] = Run(order.number, order.job(body))
        self._numbers[run.job] = run.number
        run.greenlet = gevent.spawn(self._begin, run)

    def _stop(self, run: Run, order: messages.StopTask) -> None:
        job = run.job
        job.cancelled = True
        job.ended_by, job.silent = order.why, order.why is None
        if run.task is not None:
            self._async.call_soon(run.task.cancel)
        elif run.interruptible and run.greenlet is not None:
            run.greenlet.kill(block=False)

    # ── running ──────────────────────────────────────────────────────────────

    def _begin(self, run: Run) -> None:
        job = run.job
        if job.ended_by is not None:
            self._end(run, RunResult(end=job.ended_by))
            return
        call = self._execution.load(job)
        if isinstance(call, RunResult):
            self._end(run, call)
        elif is_async(call.func):
            self._async.call_soon(copy_context().run, self._begin_async, run, call)
        else:
            limited = LoadedCall(partial(self._limited, run, call.func), call.args, call.kwargs)
            ran = self._execution.run_sync(job, limited, partial(self._await, run))
            self._state.restore()
            self._end(run, ran)

    def _limited(self, run: Run, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the task's function, whose greenlet may be stopped meanwhile."""
        limit = gevent.Timeout(run.job.call.timeout)
        run.interruptible = True
        try:
            with limit:
                return func(*args, **kwargs)
        except gevent.Timeout as timeout:
            if timeout is limit:
                raise TaskTimeout from None
            raise
        except gevent.GreenletExit:
            if run.job.cancelled:
                raise asyncio.CancelledError from None
            raise
        finally:
            run.interruptible = False

    def _await(self, run: Run, awaitable: Awaitable[Any]) -> Any:
        """Wait on this greenlet for what a sync function has returned to be awaited."""
        deadline = run.job.deadline
        ended: AsyncResult[None] = AsyncResult()
        left = None if deadline is None else max(0.0, deadline - time.monotonic())

        def tell(_: object) -> None:
            self._hub.loop.run_callback_threadsafe(ended.set)

        self._async.call_soon(copy_context().run, self._async.begin, run, within(left, awaitable), tell)
        ended.get()
        assert run.task is not None
        return run.task.result()

    def _begin_async(self, run: Run, call: LoadedCall) -> None:
        self._async.begin(run, self._run_async(run, call), partial(self._async_ended, run))

    async def _run_async(self, run: Run, call: LoadedCall) -> None:
        run.ran = await self._execution.run_async(run.job, call)

    def _async_ended(self, run: Run, task: asyncio.Task[None]) -> None:
        # There is nothing if it was cancelled before it began. One that has cancelled itself last has run all the same.
        ran = run.ran or RunResult(end=run.job.ended_by or RunStatus.RELEASED)
        self._hub.loop.run_callback_threadsafe(self._end, run, ran)

    # ── where the tasks are ──────────────────────────────────────────────────

    def stacks(self) -> dict[str, Stack]:
        """Where the tasks are; on a thread of the system. If the hub doesn't get its turn, where the one is that
        keeps it."""
        answers: SimpleQueue[dict[str, Stack]] = new_queue()
        self._hub.loop.run_callback_threadsafe(lambda: answers.put(self._found()))
        try:
            return answers.get(timeout=HUB_PATIENCE)
        except Empty:
            return of_threads()

    def _found(self) -> dict[str, Stack]:
        """The same, in the hub: no greenlet runs meanwhile."""
        found = of_threads()
        for run in list(self._runs.values()):
            if run.greenlet is not None:
                found |= of_frames(run.greenlet.gr_frame)
            if run.task is not None and not found.get(run.job.record.id):
                found[run.job.record.id] = of_coroutine(run.task.get_coro())
        return found

    # ── what is said ─────────────────────────────────────────────────────────

    def _end(self, run: Run, ran: RunResult) -> None:
        del self._runs[run.number]
        del self._numbers[run.job]
        if len(ran.value) > messages.MAX_BODY:
            too_large = f"its value takes {len(ran.value)} bytes, and a process hands over {messages.MAX_BODY} at most"
            ran = failure(run.job, SerializationError(too_large), fatal=True)
        self._say(*messages.pack_report(run.number, ran, leaving=self._memory.is_exceeded()))

    def _tell(self, job: Job, progress: Progress | None) -> None:
        number = self._numbers.get(job)
        if number is not None and (progress is not None or job.call.heartbeat_timeout is not None):
            self._hub.loop.run_callback_threadsafe(self._say, messages.pack_sign_of_life(number, progress))

    def _say(self, head: bytes, body: bytes = b"") -> None:
        self._said.append(messages.parts(head, body))
        self._has_said.set()

    def _speak(self) -> None:
        while True:
            self._has_said.wait()
            self._has_said.clear()
            frames = list(self._said)
            self._said.clear()
            self._line.say(frames)


def main(tasks: int, orders: int, results: int, leash: int) -> None:
    """Run tasks until the worker hangs up or is gone; the descriptors are the child's ends of sockets."""
    line = Line(tasks, orders, results, leash, poll=monkey.get_original("select", "poll"))
    leave_signals_to_the_worker()
    try:
        greeting = line.greeting()
        greeting.logs.apply()
        settings.withheld.update(greeting.secrets)
        parent = greeting.parent
        greenlets = Greenlets(line, greeting)
        start_thread(partial(line.look_after, parent, greenlets.stacks), "omniq-parent")
        initialize(greeting.initializer, line)
        del greeting
        line.is_ready()
        greenlets.serve()
        line.end_if_dead(parent)
    except (EOFError, ConnectionError):
        sys.exit(1)
    line.leave_open()
