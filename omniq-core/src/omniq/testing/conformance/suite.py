"""The whole suite as one class, and the list of what it requires."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import pytest
from msgspec import Struct

from omniq.plugins.specs import StoreKind
from omniq.storage.base import Capability
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
    DEVIATION,
    NOT_SEEN,
    REQUIRED,
    TITLES,
    Conformance,
    Opener,
    Recorder,
    check_apart,
    is_test,
    open_store,
)
from omniq.testing.conformance.places import Facts, Footprint

GUARD: Final = "test_no_requirement_was_changed_without_a_reason"


class BackendConformance:
    """Everything that the contract requires of a store and its plugin.

    A class that extends it gives the fixture `url`, or `opener` for stores that no plugin brings. To replace, delete
    or skip a requirement it must say why in `deviations`.
    """

    deviations: ClassVar[Mapping[str, str]] = {}
    """The ids of requirements that the class changes, each with the reason."""

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

    def test_no_requirement_was_changed_without_a_reason(self, request: pytest.FixtureRequest) -> None:
        """What a class deletes, replaces or skips it names in `deviations`, and only that."""
        Recorder.of(request.config)
        changed = set(changes(type(self)))
        request.node.user_properties += [(DEVIATION, f"{id_}: {why}") for id_, why in self.deviations.items()]
        assert sorted(changed - self.deviations.keys()) == [], "say why in `deviations`"
        assert sorted(self.deviations.keys() - changed) == [], "these are as they should be: leave them out"
        assert [id_ for id_, why in self.deviations.items() if not why.strip()] == [], "a deviation has a reason"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if getattr(cls, GUARD, None) is not getattr(BackendConformance, GUARD):
            raise TypeError(f"{cls.__name__}.{GUARD} can't be changed")


class Requirement(Struct, frozen=True):
    """One thing that the contract requires."""

    id: str
    level: str
    """The capability, or the kind of store, without which it isn't; else "required"."""


def requirements() -> list[Requirement]:
    """All that is required, in the order in which it is tested."""
    return [Requirement(_id(area, name), _level(area, name)) for _, area in areas() for name in names_of(area)]


def areas() -> Iterator[tuple[str, type[Conformance]]]:
    """The classes of the suite, by the names under which `BackendConformance` has them."""
    for name, value in vars(BackendConformance).items():
        if isinstance(value, type) and issubclass(value, Conformance):
            yield name, value


def names_of(area: type[Conformance]) -> list[str]:
    """The names of its tests, in the order of its bases."""
    return list(dict.fromkeys(name for base in area.__mro__ for name in vars(base) if is_test(name)))


def changes(suite: type[BackendConformance]) -> Iterator[str]:
    """The ids of the requirements that a class has changed."""
    for attribute, area in areas():
        own = getattr(suite, attribute, None)
        for name in names_of(area):
            test = inspect.getattr_static(own, name, None) if isinstance(own, type) else None
            original = inspect.getattr_static(area, name)
            if test is not original or any(map(_is_passed_over, (suite, own, test, inspect.getmodule(suite)))):
                yield _id(area, name)


def _is_passed_over(owner: object) -> bool:
    marks = getattr(owner, "pytestmark", [])
    names = {mark.name for mark in (marks if isinstance(marks, list) else [marks])}
    return getattr(owner, "__test__", True) is False or bool(names & {"skip", "skipif", "xfail"})


def _id(area: type[Conformance], name: str) -> str:
    return f"{area.area}.{name.removeprefix('test_')}"


def _level(area: type[Conformance], name: str) -> str:
    needed: Capability | None = getattr(getattr(area, name), "needed", area.needed)
    if needed is not None:
        return needed
    return REQUIRED if area.kind == "task_queue" else TITLES[area.kind]


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
