"""The whole suite as one class, and the list of what it requires."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import pytest

from omniq.plugins.specs import StoreKind
from omniq.testing.conformance import (
    claiming,
    engine,
    events,
    places,
    results,
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
from omniq.testing.conformance.places import Facts, Footprint


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

    class TestAdding(tasks.AddTests, tasks.DuplicateTests, tasks.ParentTests):
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
