"""The whole suite as one class, and the list of what it requires."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import pytest

from omniq.plugins.registry import load_class, registry
from omniq.plugins.specs import StoreKind
from omniq.testing.conformance import (
    claiming,
    ending,
    engine,
    events,
    lasting,
    places,
    results,
    running,
    schedules,
    tasks,
    transitions,
    upkeep,
    walks,
)
from omniq.testing.conformance.base import (
    NOT_SEEN,
    Opener,
    Requirement,
    Suite,
    areas_of,
    check_apart,
    open_store,
)
from omniq.testing.conformance.bench import Bench, Shared
from omniq.testing.conformance.places import Facts, Footprint
from omniq.workers.base import Worker


class BackendConformance(Suite):
    """Everything that the contract requires of a store and its plugin.

    A class that extends it gives the fixture `url`, or `opener` for stores that no plugin brings. To replace, delete
    or skip a requirement it must say why in `deviations`.
    """

    @pytest.fixture
    def url(self) -> str:
        """Where the stores are: a URL of the plugin's, of a place at which each project has one of its own."""
        return ""

    @pytest.fixture
    def opener(self, url: str) -> Opener:
        """Makes the stores, by default those of the plugin for the URL."""
        if not url:
            pytest.fail("override the fixture `url`: it returns a URL of the store's plugin")
        return check_apart(partial(open_store, url))

    @pytest.fixture
    def unreachable(self, url: str, opener: Opener, tmp_path: Path) -> Opener:
        """Makes stores of a place that can't be reached: nobody answers at the port, or a file is in the way."""
        is_elsewhere = opener("task_queue", "default").networked
        spoilt = spoil(url, tmp_path) if is_elsewhere or not urlsplit(url).netloc else None
        if spoilt is None:
            pytest.skip(NOT_SEEN + "the URL names neither a host nor a path that could be unreachable")
        return partial(open_store, spoilt)

    @pytest.fixture
    def footprint(self, url: str) -> Footprint:
        """Tells what the place holds of all projects: by default which files are there; None if it isn't in files."""
        parts = urlsplit(url)
        path = unquote(parts.path if parts.scheme == "file" else parts.path[1:])
        return None if parts.netloc or not path else partial(files_at, path)

    @pytest.fixture
    def entries(self) -> Footprint:
        """Tells how many records, keys or index entries the place holds of all projects; None if nobody can."""
        return None

    @pytest.fixture
    def facts(self) -> Facts:
        """Asks the place itself, past the store, for the set that must be the store's evidence; None if nobody can."""
        return None

    class TestAdding(tasks.AddTests, tasks.DuplicateTests, tasks.ParentTests, upkeep.PastTests):
        area = "queue.add"

    class TestUniqueKeys(tasks.UniqueTests, upkeep.FormerKeyTests):
        area = "queue.unique"

    class TestClaiming(claiming.ClaimTests, claiming.ClaimOrderTests, claiming.ClaimRaceTests, claiming.PauseTests):
        area = "queue.claim"

    class TestLeasing(claiming.ExtendTests, claiming.ReapTests, claiming.EvidenceTests, claiming.LeaseRaceTests):
        area = "queue.lease"

    class TestTransitions(
        transitions.FinishTests,
        transitions.GiveBackTests,
        transitions.CancelTests,
        transitions.BatchTests,
        transitions.TransitionRaceTests,
        transitions.TransitionTableTests,
    ):
        area = "queue.transition"

    class TestReading(
        tasks.GetTests,
        tasks.FindTests,
        tasks.PageTests,
        upkeep.CursorTests,
        tasks.StatsTests,
        tasks.ChildrenTests,
        walks.AfterAllTests,
    ):
        area = "queue.read"

    class TestUpkeep(upkeep.PurgeTests, upkeep.DeleteTests, upkeep.TaskBodyTests, upkeep.WorkerTests):
        area = "queue.upkeep"

    class TestWaiting(schedules.WaitTests):
        area = "queue.wait"

    class TestCalls(results.CallTests):
        area = "queue.call"

    class TestSchedules(schedules.PutTests, schedules.ListTests, schedules.FireTests):
        area = "queue.schedule"

    class TestRandomWalks(walks.WalkTests):
        area = "queue.walk"

    class TestEngine(
        engine.SchedulingTests,
        engine.ExpiryTests,
        engine.DependencyTests,
        engine.FailureTests,
        engine.ControlTests,
    ):
        area = "engine"

    class TestAtomicResults(results.AtomicTests):
        area = "queue.atomic"

    class TestProcesses(results.ProcessTests):
        area = "queue.process"

    class TestCapabilities(places.CapabilityTests):
        area = "queue.capability"

    class TestQueuePlace(places.PlaceTests):
        area = "queue.place"

    class TestProjects(places.ProjectTests):
        area = "queue.project"

    class TestDrop(places.DropTests):
        area = "queue.drop"

    class TestResults(
        results.PutResultTests,
        results.GetResultTests,
        results.FindResultTests,
        results.PurgeResultTests,
        results.ResultBodyTests,
        results.WaitResultTests,
        places.PlaceTests,
        places.ProjectResultTests,
        places.DropOtherTests,
    ):
        area = "results"
        kind: ClassVar[StoreKind] = "result_store"

    class TestEvents(
        events.AppendTests,
        events.QueryTests,
        events.PurgeEventTests,
        places.PlaceTests,
        places.ProjectEventTests,
        places.DropEventTests,
    ):
        area = "events"
        kind: ClassVar[StoreKind] = "event_store"


SHARED: Final = pytest.StashKey[dict[type[Worker], Shared]]()


class WorkerConformance(Suite):
    """Everything that is promised of a kind of worker: which tasks it runs, and how these end.

    A class that extends it says which one in `worker_type`. What a kind can't do, its `Runner` tells by its attributes
    `isolates`, `concurrent`, `preempts`, `cancels` and `forks`: such requirements are passed over, and reported so. To
    replace, delete or skip another one, the class must say why in `deviations`.
    """

    worker_type: ClassVar[str | type[Worker]] = ""
    """The name under which a plugin brings it, or its class, which must be importable by its name."""
    most: ClassVar[int] = 200
    """How many tasks one of its workers runs at once at most in the tests; lower it where each costs a process."""
    longest: ClassVar[float] = 30.0
    """Seconds after which what should have happened at once won't happen any more, on a busy machine too."""

    @pytest.fixture
    def worker_class(self) -> type[Worker]:
        """The class of the workers."""
        if isinstance(self.worker_type, type):
            return self.worker_type
        if not self.worker_type:
            pytest.fail("set the class attribute `worker_type`: the name of a kind of worker, or its class")
        return load_class(registry().worker(self.worker_type).worker_class, Worker)

    @pytest.fixture
    def patience(self) -> float:
        """As `longest`."""
        return self.longest

    @pytest.fixture
    def shared(self, request: pytest.FixtureRequest, worker_class: type[Worker], patience: float) -> Shared:
        """Benches with workers on them, for all the tests of a module that need no other one."""
        module = request.node.getparent(pytest.Module)
        benches: dict[type[Worker], Shared] = module.stash.setdefault(SHARED, {})
        if worker_class not in benches:
            benches[worker_class] = Shared(worker_class, patience)
            module.addfinalizer(benches[worker_class].close)
        return benches[worker_class]

    @pytest.fixture
    def bench(self, worker_class: type[Worker], patience: float) -> Iterator[Bench]:
        """A queue of the test's own, without a worker."""
        bench = Bench(worker_class, patience)
        with bench.oq:
            yield bench

    @pytest.fixture
    def concurrency(self, worker_class: type[Worker]) -> int:
        """How many tasks run at once where there are many."""
        return self.most if worker_class.runner.concurrent else 1

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        """Where processes meet: a place that they share, which is a SQLite file by default."""
        return f"sqlite:///{tmp_path}/queue.db?synchronous=NORMAL"

    class TestRunning(running.FunctionTests, running.ValueTests, running.ContextTests):
        area = "worker.run"

    class TestSlots(running.SlotTests):
        area = "worker.slot"

    class TestProgress(running.ProgressTests):
        area = "worker.progress"

    class TestErrors(ending.ErrorTests):
        area = "worker.error"

    class TestRetries(ending.RetryTests):
        area = "worker.retry"

    class TestTimeouts(ending.TimeoutTests, ending.HeartbeatTests):
        area = "worker.timeout"

    class TestCancelling(ending.CancelTests):
        area = "worker.cancel"

    class TestStopping(lasting.StopTests):
        area = "worker.stop"

    class TestLeases(lasting.LeaseTests):
        area = "worker.lease"

    class TestDeaths(lasting.DeathTests):
        area = "worker.death"

    class TestRudeTasks(lasting.RudeTests):
        area = "worker.rude"


def requirements(suite: type[Suite] = BackendConformance) -> list[Requirement]:
    """All that is required, in the order in which it is tested: of a store, or by another class of the suite's."""
    return [area.requirement_of(name) for _, area in areas_of(suite) for name in area.names()]


# ── places ───────────────────────────────────────────────────────────────────


def spoil(url: str, folder: Path) -> str | None:
    """A URL like this one, of a place that can't be reached; None if it names neither host nor path."""
    parts = urlsplit(url)
    if parts.netloc:
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:1"))
    if not parts.path:
        return None
    obstacle = folder / "in-the-way"
    obstacle.write_text("")
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}:///{quote(str(obstacle / 'place'))}{query}"


async def files_at(path: str) -> list[str]:
    """The files and folders in a folder, or in that of a file."""
    return await asyncio.to_thread(_files_at, path)


def _files_at(path: str) -> list[str]:
    folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
    return sorted(os.path.join(root, name) for root, folders, files in os.walk(folder) for name in (*folders, *files))
