"""What the suite for workers has in common: a queue, workers of the tested kind on it, and short ways to say so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import pytest
from msgspec import field

from omniq.config.loader import OmniQConfig, TaskDefaults
from omniq.core import OmniQ
from omniq.errors import ResultTimeout, TaskFailed
from omniq.models.config import ResultStorageConfig, TaskQueueConfig
from omniq.models.task import Task, TaskState
from omniq.queue.engine import AsyncTaskQueue
from omniq.results import AsyncResultStorage
from omniq.testing import ReferenceQueueStore, ReferenceResultStore, ReferenceSpace, VirtualClock
from omniq.testing import worker_tasks as tasks
from omniq.testing.conformance.base import NOT_DECLARED, Area
from omniq.workers.base import Worker, WorkerPool
from omniq.workers.pool import AsyncWorkerPool

Trait: TypeAlias = Literal["isolates", "concurrent", "preempts", "cancels"]
"""What a kind of worker may be able to do: an attribute of its `Runner`."""

QUEUES: Final = ("high", "default", "low")
CONFIG: Final[dict[str, Any]] = {
    "max_workers": 2,
    "lease": 3.0,
    "reap_interval": 0.1,
    "poll_interval": 0.2,
    "grace_period": 10.0,
}
"""A worker that notices everything soon, and whose leases outlast a busy machine's pauses."""
PAUSE: Final = 0.005


class QueueConfig(TaskQueueConfig, frozen=True, kw_only=True):
    """Of a queue in this process."""

    queues: list[str] = field(default_factory=lambda: list(QUEUES))


class Bench:
    """A queue in this process, and workers on it. Tasks are tried once, unless they say more."""

    def __init__(self, worker_class: type[Worker], patience: float) -> None:
        space = ReferenceSpace()
        self._worker_class = worker_class
        self.patience = patience
        """Seconds after which what should have happened at once won't happen any more."""
        self.oq = OmniQ(
            task_queue=AsyncTaskQueue(lambda _: ReferenceQueueStore(space), QueueConfig()),
            result_store=AsyncResultStorage(lambda _: ReferenceResultStore(space), ResultStorageConfig()),
            config=OmniQConfig(project_name="test", defaults=TaskDefaults(max_retries=0)),
        )
        self._pools: list[AsyncWorkerPool] = []
        """Those that should be running."""

    # ── workers ──────────────────────────────────────────────────────────────

    @contextmanager
    def working(self, kind: type[Worker] | None = None, **config: Any) -> Iterator[WorkerPool]:
        """A worker, by default of the tested kind, on a thread and a loop of its own. Its tasks mustn't end it."""
        worker = (kind or self._worker_class)(self.oq.aio.task_queue, self.oq.aio.result_store, **{**CONFIG, **config})
        pool = WorkerPool(worker.pool())
        pool.start()
        self._pools.append(pool.aio)
        try:
            yield pool
            self.check()
        finally:
            self._pools.remove(pool.aio)
            pool.stop()

    def check(self) -> None:
        """No worker has failed."""
        for pool in self._pools:
            assert pool.failure is None, f"the worker can't go on: {pool.failure!r}"

    # ── tasks ────────────────────────────────────────────────────────────────

    def enqueue(self, func: Callable[..., Any], *args: Any, **options: Any) -> str:
        """Enqueue a task; returns its id."""
        return self.oq.enqueue(func, list(args), **options)

    def result(self, task_id: str) -> Any:
        """Its value, once it has ended; raises as `get_result`."""
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            self.check()
            try:
                return self.oq.get_result(task_id, timeout=min(1.0, self.patience))
            except ResultTimeout:
                continue
        raise AssertionError(f"{self.task(task_id)} hasn't ended after {self.patience:g} s")

    def results(self, task_ids: Sequence[str]) -> list[Any]:
        """Their values, in order."""
        return [self.result(task_id) for task_id in task_ids]

    def run(self, func: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Enqueue a task; returns its value."""
        return self.result(self.enqueue(func, *args, **options))

    def failure(self, task_id: str) -> TaskFailed:
        """How a task has failed; it must have."""
        with pytest.raises(TaskFailed) as failed:
            self.result(task_id)
        return failed.value

    def fail(self, func: Callable[..., Any], *args: Any, **options: Any) -> TaskFailed:
        """Enqueue a task, and tell how it has failed; it must."""
        return self.failure(self.enqueue(func, *args, **options))

    def task(self, task_id: str) -> Task:
        """The task."""
        return self.oq.get_task(task_id)

    # ── waiting ──────────────────────────────────────────────────────────────

    def until(self, condition: Callable[[], bool], what: str = "it") -> None:
        """Wait for a condition that nothing tells of, such as a line in a file."""
        deadline = time.monotonic() + self.patience
        while not condition():
            self.check()
            assert time.monotonic() < deadline, f"{what} didn't happen within {self.patience:g} s"
            time.sleep(PAUSE)

    def until_lines(self, log: Path, count: int) -> None:
        """Wait until tasks have noted so many lines."""
        self.until(lambda: len(tasks.lines(log)) >= count, f"a number of {count} lines from tasks")

    def until_states(self, task_ids: Sequence[str], *states: TaskState) -> None:
        """Wait until all these tasks are in one of these states."""
        self.until(lambda: {self.task(id_).state for id_ in task_ids} <= set(states), " or ".join(states))

    def until_heard(self, task_id: str) -> None:
        """Wait until the worker has heard that it should stop a task."""

        def heard() -> bool:
            held = [job for pool in self._pools for job in list(pool.in_flight.held.values())]
            its = [job for job in held if job.record.id == task_id]
            if not its:  # the answer to its claim is still under way, or it has ended
                return self.task(task_id).state.is_terminal
            return all(job.ended_by for job in its)

        self.until(heard, "the news of a cancellation")

    # ── what must hold ───────────────────────────────────────────────────────

    def assert_uncharged(self, task_ids: Sequence[str], state: TaskState = TaskState.SUCCESS) -> None:
        """They are in that state, and neither a failure nor a crash is charged to them."""
        found = {(task.state, task.attempts, task.crashes) for task in map(self.task, task_ids)}
        assert found == {(state, 0, 0)}

    def assert_goes_on(self) -> None:
        """Sync and async tasks run as before."""
        ids = [self.enqueue(func, n, 1) for n in range(3) for func in (tasks.add, tasks.add_async)]
        assert self.results(ids) == [1, 1, 2, 2, 3, 3]
        self.assert_uncharged(ids)


class Shared:
    """Benches with a worker each, which is started for the first test that needs it."""

    def __init__(self, worker_class: type[Worker], patience: float) -> None:
        self._worker_class = worker_class
        self._patience = patience
        self._open = ExitStack()
        self._benches: dict[int, Bench] = {}

    def bench(self, max_workers: int) -> Bench:
        """The one whose worker runs so many tasks at once, and claims a few more ahead."""
        if max_workers not in self._benches:
            bench = Bench(self._worker_class, self._patience)
            self._open.enter_context(bench.oq)
            self._open.enter_context(bench.working(max_workers=max_workers, prefetch=30))
            self._benches[max_workers] = bench
        return self._benches[max_workers]

    def close(self) -> None:
        """Stop the workers."""
        self._open.close()


class WorkerTests(Area):
    """Base of the requirements of workers."""

    @pytest.fixture(autouse=True)
    def requirement(self, request: pytest.FixtureRequest, worker_class: type[Worker]) -> str:
        """The id of the test. Passes it over, saying why, where the kind doesn't do what it is about."""
        id_, needed = self.enter(request).id, self.needed_by(request.function.__name__)
        if needed is not None and not getattr(worker_class.runner, needed):
            pytest.skip(NOT_DECLARED + needed)
        return id_

    @pytest.fixture
    def working(self, shared: Shared) -> Iterator[Bench]:
        """A bench with a worker of two slots, which other tests use, too; it must not fail."""
        yield (bench := shared.bench(2))
        bench.check()

    @pytest.fixture
    def single(self, shared: Shared) -> Iterator[Bench]:
        """Likewise with a worker of one slot."""
        yield (bench := shared.bench(1))
        bench.check()

    @pytest.fixture
    def log(self, tmp_path: Path) -> Path:
        """The file in which tasks note what they do."""
        return tmp_path / "log"

    @pytest.fixture
    def gate(self, tmp_path: Path) -> Iterator[Path]:
        """A file for which tasks wait; in the end it is there, so that none waits for ever."""
        path = tmp_path / "gate"
        yield path
        path.touch()

    @pytest.fixture
    def clock(self) -> Iterator[VirtualClock]:
        """The clock that moves the store's time."""
        with VirtualClock() as clock:
            yield clock
