"""What all of the suite has, and the report of what it has shown."""

from __future__ import annotations

import inspect
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final, Literal, Protocol, Self, TypeAlias, TypeVar

import pytest
import pytest_asyncio
from msgspec import Struct, field
from msgspec.structs import asdict

from omniq.config.choices import resolve
from omniq.config.loader import ComponentChoice
from omniq.errors import ConfigError, UnknownBackend
from omniq.plugins.registry import load_class
from omniq.plugins.specs import StoreKind
from omniq.storage.base import BaseEventStorage, BaseResultStorage, BaseTaskQueue, Store
from omniq.testing import JOURNAL, VirtualClock

# ── the report ──────────────────────────────────────────────────────────────


Verdict: TypeAlias = Literal["passed", "failed", "not declared", "not seen"]

REQUIREMENT: Final = "requirement"
NEEDED: Final = "needed"
DEVIATION: Final = "deviation"
"""Names of the properties by which a test tells what it is about."""
REQUIRED: Final = "required"
_SEVERITY: Final[tuple[Verdict, ...]] = ("passed", "not declared", "not seen", "failed")


class Finding(Struct, kw_only=True):
    """What became of one requirement."""

    requirement: str
    """Its id, such as `queue.transition.a_late_worker_is_refused`."""
    level: str = REQUIRED
    """The capability, or the kind of store, that it belongs to; else "required"."""
    verdict: Verdict = "passed"
    reason: str = ""
    """Why it failed, or wasn't looked at."""


class Level(Struct, frozen=True, kw_only=True):
    """What became of the requirements of one level."""

    name: str
    passed: int
    failed: int
    total: int
    declared: bool

    def __str__(self) -> str:
        if not self.declared:
            return f"{self.name:<22} not declared"
        return f"{self.name:<22} {self.passed} of {self.total}"


class Report(Struct, kw_only=True):
    """What became of all requirements. It is printed as text by `str`, and as JSON by `data`."""

    subject: str = ""
    """What was tested, such as "lmdb"."""
    findings: dict[str, Finding] = field(default_factory=dict)
    deviations: list[str] = field(default_factory=list)
    """Requirements that were changed on purpose, each with its reason."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What else was tried, and what it came to."""
    failures: list[str] = field(default_factory=list)
    """What failed and is no requirement of the suite."""

    @property
    def ok(self) -> bool:
        """Whether something was tested, and nothing failed."""
        return bool(self.findings) and not self.failed and not self.failures

    @property
    def failed(self) -> list[Finding]:
        """The requirements that don't hold."""
        return [finding for finding in self.findings.values() if finding.verdict == "failed"]

    @property
    def levels(self) -> list[Level]:
        """What is required of all first, then by name."""
        names = dict.fromkeys([REQUIRED, *sorted(finding.level for finding in self.findings.values())])
        return [_level(name, [each for each in self.findings.values() if each.level == name]) for name in names]

    def note(self, finding: Finding) -> None:
        """Enter what became of a requirement; of several tests of one, the worst counts."""
        known = self.findings.setdefault(finding.requirement, finding)
        if _SEVERITY.index(finding.verdict) > _SEVERITY.index(known.verdict):
            self.findings[finding.requirement] = finding

    def add(self, other: Report) -> None:
        """Enter what another report says."""
        for finding in other.findings.values():
            self.note(finding)
        self.deviations += other.deviations
        self.failures += other.failures

    def data(self) -> dict[str, Any]:
        """All of it as plain data."""
        findings = sorted(self.findings.values(), key=lambda finding: finding.requirement)
        return {
            "subject": self.subject,
            "ok": self.ok,
            "levels": [asdict(level) for level in self.levels],
            "failed": [asdict(finding) for finding in findings if finding.verdict == "failed"],
            "not_seen": [asdict(finding) for finding in findings if finding.verdict == "not seen"],
            "passed": [finding.requirement for finding in findings if finding.verdict == "passed"],
            "deviations": self.deviations,
            "failures": self.failures,
            **self.extra,
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"conformance{' of ' if self.subject else ''}{self.subject}: {'it holds' if self.ok else 'it fails'}"
        yield from (f"  {level}" for level in self.levels)
        yield from (f"  {name:<22} {value}" for name, value in self.extra.items())
        yield from _section("not seen", [f for f in self.findings.values() if f.verdict == "not seen"])
        yield from _section("deviations", self.deviations)
        yield from _section("failed", [*self.failed, *self.failures])


def _level(name: str, findings: Iterable[Finding]) -> Level:
    verdicts = [finding.verdict for finding in findings]
    counted = [verdict for verdict in verdicts if verdict in ("passed", "failed")]
    return Level(
        name=name,
        passed=verdicts.count("passed"),
        failed=verdicts.count("failed"),
        total=len(counted),
        declared="not declared" not in verdicts,
    )


def _section(title: str, items: Iterable[Finding | str]) -> Iterator[str]:
    for number, item in enumerate(items):
        if number == 0:
            yield f"  {title}:"
        text = item if isinstance(item, str) else f"{item.requirement}: {item.reason}"
        yield f"    {text}"


class Recorder:
    """A plugin of pytest's that keeps the report of a run, and prints it at the end."""

    def __init__(self, report: Report | None = None, *, tell: Callable[[int], None] | None = None) -> None:
        self.report = report if report is not None else Report()
        self._tell = tell
        """Is told how many tests there were, instead of printing."""
        self._count = 0

    @classmethod
    def of(cls, config: pytest.Config) -> Self:
        """That of a run, from its first test of the suite on."""
        for known in config.pluginmanager.get_plugins():
            if isinstance(known, cls):
                return known
        recorder = cls()
        config.pluginmanager.register(recorder, "omniq-conformance")
        return recorder

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Enter what became of a test."""
        properties = dict(report.user_properties)
        deviations = [str(value) for name, value in report.user_properties if name == DEVIATION]
        self.report.deviations += [each for each in deviations if each not in self.report.deviations]
        if REQUIREMENT in properties and (report.when == "call" or not report.passed):
            self.report.note(_finding(report, properties))
        elif report.failed:
            self.report.failures.append(f"{report.nodeid}: {_reason(report)}")
        self._count += report.when == "call"
        if self._tell is not None:
            self._tell(self._count)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the report."""
        if self._tell is None and self.report.findings:
            terminalreporter.section("OmniQ conformance")
            terminalreporter.write_line(str(self.report))


def _finding(report: pytest.TestReport, properties: dict[str, Any]) -> Finding:
    verdict: Verdict = "passed" if report.passed else "failed"
    reason = "" if report.passed else _reason(report)
    if report.skipped:
        verdict = "not declared" if reason.startswith("not declared") else "not seen"
    return Finding(
        requirement=str(properties[REQUIREMENT]),
        level=str(properties[NEEDED]) or REQUIRED,
        verdict=verdict,
        reason=reason,
    )


def _reason(report: pytest.TestReport) -> str:
    """Why it failed or was skipped, in a line."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return next((line for line in text.splitlines() if line.strip()), "")[:300]


# ── the suite's base ────────────────────────────────────────────────────────


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
    spec, config = resolve(kind, ComponentChoice(url=url))
    store: Store = load_class(spec.store, BASES[kind])(config.for_project(project))
    return store


def new_project() -> str:
    """A name that no project has."""
    return noted(f"test-{secrets.token_hex(6)}")


def noted(project: str) -> str:
    """The name, which is noted as that of a project that there is."""
    note(f"+{project}")
    return project


def note(line: str) -> None:
    """Note which projects there are (+), and which were dropped (-), if anybody wants to know that."""
    if journal := os.environ.get(JOURNAL):
        with open(journal, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def needs(capability: str) -> Callable[[F], F]:
    """Mark a test as one of a capability: it is passed over, and reported so, where that isn't declared."""

    def mark(test: F) -> F:
        test.needed = capability  # type: ignore[attr-defined]
        return test

    return mark


class Area:
    """Requirements of one area. Each is a test."""

    area: ClassVar[str]
    """What the ids of its requirements begin with, such as `queue.add`."""
    needed: ClassVar[str | None] = None
    """The capability without which none of its requirements holds."""
    level: ClassVar[str] = REQUIRED
    """That of requirements which need no capability."""

    @classmethod
    def names(cls) -> list[str]:
        """The names of its tests, in the order of its bases."""
        return list(dict.fromkeys(name for base in cls.__mro__ for name in vars(base) if name.startswith("test_")))

    @classmethod
    def needed_by(cls, name: str) -> str | None:
        """The capability that a test is about."""
        needed: str | None = getattr(getattr(cls, name), "needed", cls.needed)
        return needed

    @classmethod
    def requirement_of(cls, name: str) -> Requirement:
        """What a test requires."""
        needed = cls.needed_by(name)
        return Requirement(f"{cls.area}.{name.removeprefix('test_')}", cls.level if needed is None else str(needed))

    def enter(self, request: pytest.FixtureRequest) -> Requirement:
        """Let the report know what the test is about that is about to run."""
        required = self.requirement_of(request.function.__name__)
        level = "" if required.level == REQUIRED else required.level
        request.node.user_properties += [(REQUIREMENT, required.id), (NEEDED, level)]
        request.node.add_report_section("setup", "requirement", required.id)
        Recorder.of(request.config)
        return required


class Requirement(Struct, frozen=True):
    """One thing that a contract requires."""

    id: str
    level: str
    """The capability, or the kind of store, without which it isn't; else "required"."""


@pytest.mark.asyncio(loop_scope="function")
class Conformance(Area):
    """Base of the suite's classes: requirements of one area, on a store of one kind."""

    kind: ClassVar[StoreKind] = "task_queue"
    most: ClassVar[int] = 1000
    """How many tasks the tests of big batches use at most; a slow store may lower it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.level = REQUIRED if cls.kind == "task_queue" else TITLES[cls.kind]

    @pytest.fixture(autouse=True)
    def requirement(self, request: pytest.FixtureRequest, opener: Opener) -> str:
        """The id of the test. Passes it over, saying why, where the plugin doesn't declare what it is about."""
        id_, needed = self.enter(request).id, self.needed_by(request.function.__name__)
        try:
            declared = opener(self.kind, "default").capabilities
        except UnknownBackend:
            if self.kind == "task_queue":
                raise
            pytest.skip(NOT_DECLARED + TITLES[self.kind])
        if needed is not None and needed not in declared:
            pytest.skip(NOT_DECLARED + needed)
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


# ── whole suites ────────────────────────────────────────────────────────────


class Suite:
    """Base of the classes that are published: each holds its areas as classes of its own.

    To replace, delete or skip a requirement, a class that extends one must say why in `deviations`.
    """

    deviations: ClassVar[Mapping[str, str]] = {}
    """The ids of requirements that the class changes, each with the reason."""

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
        if getattr(cls, GUARD, None) is not getattr(Suite, GUARD):
            raise TypeError(f"{cls.__name__}.{GUARD} can't be changed")


GUARD: Final = "test_no_requirement_was_changed_without_a_reason"


def areas_of(suite: type[Suite]) -> Iterator[tuple[str, type[Area]]]:
    """The areas of the published class that this one is or extends, by their names there."""
    published = next(base for base in suite.__mro__ if Suite in base.__bases__)
    for name, value in vars(published).items():
        if isinstance(value, type) and issubclass(value, Area):
            yield name, value


def changes(suite: type[Suite]) -> Iterator[str]:
    """The ids of the requirements that a class has changed."""
    for attribute, area in areas_of(suite):
        own = getattr(suite, attribute, None)
        for name in area.names():
            test = inspect.getattr_static(own, name, None) if isinstance(own, type) else None
            original = inspect.getattr_static(area, name)
            if test is not original or any(map(_is_passed_over, (suite, own, test, inspect.getmodule(suite)))):
                yield area.requirement_of(name).id


def _is_passed_over(owner: object) -> bool:
    marks = getattr(owner, "pytestmark", [])
    names = {mark.name for mark in (marks if isinstance(marks, list) else [marks])}
    return getattr(owner, "__test__", True) is False or bool(names & {"skip", "skipif", "xfail"})


def check_apart(opener: Opener) -> Opener:
    """The opener, if each project has a place of its own there. Raises `ConfigError`."""
    one, other = (opener("task_queue", project).location for project in ("one", "other"))
    if one == other:
        raise ConfigError(f"{one}: this is the place of a single project; the suite needs one for each test")
    return opener


__all__ = ["DEVIATION", "Conformance", "Connect", "Opener", "needs", "open_store"]
