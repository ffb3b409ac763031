"""What every class of the suite has: stores of a project of its own, a clock that moves, and an id for each test."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, Protocol, TypeVar

import pytest
import pytest_asyncio

from omniq import build
from omniq.config.loader import ComponentChoice
from omniq.errors import ConfigError, UnknownBackend
from omniq.plugins.registry import load_class
from omniq.plugins.specs import StoreKind
from omniq.storage.base import BaseEventStorage, BaseResultStorage, BaseTaskQueue, Capability, Store
from omniq.testing import JOURNAL
from omniq.testing.clock import VirtualClock
from omniq.testing.report import DEVIATION, NEEDED, REQUIREMENT, Recorder

F = TypeVar("F", bound=Callable[..., Any])

BASES: Final[Mapping[StoreKind, Any]] = {
    "task_queue": BaseTaskQueue,
    "result_store": BaseResultStorage,
    "event_store": BaseEventStorage,
}
TITLES: Final[Mapping[StoreKind, str]] = {
    "task_queue": "a task queue",
    "result_store": "a result store",
    "event_store": "an event store",
}
NOT_DECLARED: Final = "not declared: "
"""How the reasons begin for which requirements are passed over."""
NOT_SEEN: Final = "can't be seen from here: "


class Opener(Protocol):
    """Makes the stores of one place, not connected yet. It can be pickled where the store is `CROSS_PROCESS`."""

    def __call__(self, kind: StoreKind, project: str) -> Any:
        """The store of that kind for a project. Raises `UnknownBackend` if there is none of the kind."""


class Connect(Protocol):
    """Connects stores; what they hold is dropped after the test, and they are closed."""

    async def __call__(self, kind: StoreKind | None = None, *, project: str | None = None) -> Any:
        """A store of that kind, by default of the class's own, for a project, by default the test's own."""


def open_store(url: str, kind: StoreKind, project: str) -> Store:
    """The store that a plugin has for URLs like this one, for a project. Raises `ConfigError` and `PluginError`."""
    spec, config = build.resolve(kind, ComponentChoice(url=url))
    store: Store = load_class(spec.store, BASES[kind])(config.for_project(project))
    return store


def new_project() -> str:
    """A name that no project has."""
    name = f"test-{secrets.token_hex(6)}"
    note(f"+{name}")
    return name


def note(line: str) -> None:
    """Note which projects there are (+), and which were dropped (-), if anybody wants to know that."""
    if journal := os.environ.get(JOURNAL):
        with open(journal, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def needs(capability: Capability) -> Callable[[F], F]:
    """Mark a test as one of a capability: it is passed over, and reported so, where that isn't declared."""

    def mark(test: F) -> F:
        test.needed = capability  # type: ignore[attr-defined]
        return test

    return mark


def is_test(name: str) -> bool:
    """Whether the attribute of a class of the suite is a requirement."""
    return name.startswith("test_")


@pytest.mark.asyncio(loop_scope="function")
class Conformance:
    """Base of the suite's classes: requirements of one area, on a store of one kind."""

    area: ClassVar[str]
    """What the ids of its requirements begin with, such as `queue.add`."""
    kind: ClassVar[StoreKind] = "task_queue"
    needed: ClassVar[Capability | None] = None
    """The capability without which none of its requirements holds."""
    most: ClassVar[int] = 1000
    """How many tasks the tests of big batches use at most; a slow store may lower it."""

    @pytest.fixture(autouse=True)
    def requirement(self, request: pytest.FixtureRequest, opener: Opener) -> str:
        """The id of the test. Passes it over, saying why, where the plugin doesn't declare what it is about."""
        id_ = f"{self.area}.{request.function.__name__.removeprefix('test_')}"
        needed = getattr(request.function, "needed", self.needed)
        of_kind = "" if self.kind == "task_queue" else TITLES[self.kind]
        request.node.user_properties += [(REQUIREMENT, id_), (NEEDED, of_kind if needed is None else needed.value)]
        request.node.add_report_section("setup", "requirement", id_)
        Recorder.of(request.config)
        try:
            declared = opener(self.kind, "default").capabilities
        except UnknownBackend:
            if self.kind == "task_queue":
                raise
            pytest.skip(NOT_DECLARED + TITLES[self.kind])
        if needed is not None and needed not in declared:
            pytest.skip(NOT_DECLARED + needed.value)
        return id_

    @pytest.fixture
    def project(self) -> str:
        """The test's own project, which nobody else has."""
        return new_project()

    @pytest_asyncio.fixture(loop_scope="function")
    async def connect(self, opener: Opener, project: str) -> AsyncIterator[Connect]:
        """Connects stores for the test."""
        stores: list[Store] = []
        names: set[str] = set()

        async def connect(kind: StoreKind | None = None, *, project: str | None = project) -> Store:
            names.add(project := project or new_project())
            store: Store = opener(kind or self.kind, project)
            stores.append(store)
            await store.connect()
            return store

        yield connect
        for store in stores:
            await store.drop()
        for store in stores:
            await store.close()
        for name in names:
            note(f"-{name}")

    @pytest_asyncio.fixture(loop_scope="function")
    async def store(self, connect: Connect) -> Any:
        """A connected, empty store."""
        return await connect()

    @pytest.fixture
    def many(self, store: Store) -> int:
        """As many tasks as go into one call."""
        return min(self.most, store.max_items)

    @pytest.fixture
    def clock(self) -> Iterator[VirtualClock]:
        """The clock that moves the store's time."""
        with VirtualClock() as clock:
            yield clock


def check_apart(opener: Opener) -> Opener:
    """The opener, if each project has a place of its own there. Raises `ConfigError`."""
    one, other = (opener("task_queue", project).location for project in ("one", "other"))
    if one == other:
        raise ConfigError(f"{one}: this is the place of a single project; the suite needs one for each test")
    return opener


__all__ = ["DEVIATION", "Conformance", "Connect", "Opener", "needs", "open_store"]
