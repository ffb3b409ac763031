"""The engine of `omniq plugins verify`: the suite and a kill test on somebody's own place, of which nothing is left."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import msgspec
from msgspec import Struct

from omniq.config.convert import url_scheme
from omniq.config.settings import CONFIG_FILE, OTHERS, PREFIX
from omniq.errors import ConfigError, PluginError, StoreError
from omniq.models.config import mask_url
from omniq.plugins.registry import inactive, registry
from omniq.plugins.specs import PluginRecord, WorkerSpec
from omniq.sync import new_event_loop
from omniq.testing import JOURNAL
from omniq.texts import did_you_mean, install_command

if TYPE_CHECKING:
    from omniq.testing.conformance.base import Report

T = TypeVar("T")

NEEDED: Final = ("pytest", "pytest_asyncio", "hypothesis")
URL: Final = "OMNIQ_TEST_URL"
SILENCE: Final = 90.0
"""Seconds without the end of a test, after which it is given up."""
PATIENCE: Final = 20.0
"""Seconds in which projects that were left are dropped."""
WALKS: Final = "20"
CONFINED: Final = {
    "OMNIQ_SERIALIZER": "msgspec",
    "OMNIQ_ALLOWED_MODULES": "omniq.testing.fleet,omniq.testing.conformance.engine",
}
"""Settings for stores that others may write to."""
INTERRUPTIONS: Final = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

STORES: Final = f"""
import os
import pytest
from omniq.testing.conformance import BackendConformance

class TestStore(BackendConformance):
    @pytest.fixture
    def url(self):
        return os.environ[{URL!r}]
"""

WORKERS: Final = """
from omniq.testing.conformance import WorkerConformance
"""
WORKER: Final = """
class TestWorker{number}(WorkerConformance):
    worker_type = {name!r}
"""

Tell = Callable[[str], None]


class UnknownPlugin(PluginError, LookupError):
    """Raised when no plugin of that name is installed."""


class Wish(Struct, frozen=True, kw_only=True):
    """What is to be verified, and how."""

    name: str
    url: str | None = None
    """Where its stores are; None for a plugin that brings workers only."""
    kill: bool = True
    seconds: float = 15.0
    """For how long tasks are enqueued and workers killed."""


def check(wish: Wish) -> None:
    """See that it can be verified. Raises `PluginError` and `ConfigError`."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise PluginError(f"plugins verify needs {', '.join(missing)}: {install_command('testing')}")
    record = plugin(wish.name)
    if wish.url is None:
        if not workers_of(wish):
            raise ConfigError(f"url: the plugin {record.name!r} has stores to verify: say where, with --url")
        return
    spec = registry().by_scheme("task_queue", url_scheme(wish.url))
    if spec not in record.specs or (wish.name != record.name and wish.name not in spec.names):
        raise ConfigError(f"url: {mask_url(wish.url)} is a URL for {spec.name!r}, not for {wish.name!r}")


def plugin(name: str) -> PluginRecord:
    """The active plugin of that name, or of a store's of that name. Raises `PluginError`."""
    records = registry().plugins()
    for record in records:
        if record.name == name or any(name in spec.names for spec in record.specs):
            if record.status != "active":
                raise inactive(record)
            return record
    raise UnknownPlugin(f"there is no plugin {name!r}{did_you_mean(name, (record.name for record in records))}")


def workers_of(wish: Wish) -> list[str]:
    """The kinds of workers that are meant: those of the plugin, or the one of that name."""
    record = plugin(wish.name)
    workers = [spec for spec in record.specs if isinstance(spec, WorkerSpec)]
    return [spec.name for spec in workers if wish.name == record.name or wish.name in spec.names]


async def _reach(url: str) -> None:
    from omniq.testing.conformance.base import check_apart, new_project, open_store

    store = check_apart(lambda kind, project: open_store(url, kind, project))("task_queue", new_project())
    try:
        await store.connect()
        await store.drop()
    finally:
        await store.close()


def verify(wish: Wish, tell: Tell) -> Report:
    """What the suite and the kill test have shown.

    SIGTERM and SIGHUP interrupt it as Ctrl-C does. Raises what `check` raises, `StoreError` if the place can't be
    reached, or what was made there can't be dropped after an interruption, and `KeyboardInterrupt`.
    """
    check(wish)
    with _interruptible(), tempfile.TemporaryDirectory(prefix="omniq-verify-") as name:
        folder = Path(name)
        journal = folder / "projects"
        with _environment(wish.url, journal):
            try:
                report = _verified(wish, folder, tell)
            except BaseException as error:
                if left := tidy(wish.url, journal, tell):
                    raise StoreError("; ".join([str(error) or "interrupted", *left])) from error
                raise
            report.failures += tidy(wish.url, journal, tell)
            return report


def _verified(wish: Wish, folder: Path, tell: Tell) -> Report:
    from omniq.testing.conformance.base import Report

    report = Report(subject=wish.name if wish.url is None else f"{wish.name}, {mask_url(wish.url)}")
    if wish.url is not None:
        _run(_reach(wish.url))
        report.add(run_suite(STORES, wish.name, folder, tell))
        if wish.kill:
            kill(wish, wish.url, folder, report, tell)
    if workers := workers_of(wish):
        # On stores in this process and in a file of its own: they may run what goes by value.
        for name in CONFINED:
            del os.environ[name]
        classes = (WORKER.format(number=number, name=name) for number, name in enumerate(workers))
        report.add(run_suite("\n".join([WORKERS, *classes]), wish.name, folder, tell))
    return report


# ── the suite ────────────────────────────────────────────────────────────────


def run_suite(tests: str, subject: str, folder: Path, tell: Tell) -> Report:
    """Run tests of the suite in a process of its own, which ends with all of its children whatever happens here."""
    from omniq.testing.conformance.base import Report

    (folder / "test_plugin.py").write_text(tests)
    command = [sys.executable, "-m", "omniq.testing.verify", str(folder)]
    pytest = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "HYPOTHESIS_STORAGE_DIRECTORY": str(folder)}
    given = {**os.environ, **pytest, "OMNIQ_TEST_WALKS": WALKS}
    log, found = folder / "suite.log", folder / "report.json"
    found.unlink(missing_ok=True)
    with log.open("wb") as errors:
        suite = subprocess.Popen(command, env=given, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
    ended = 0
    try:
        for ended in _counts(suite):
            tell(f"the suite: {ended} tests so far")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(suite.pid, signal.SIGKILL)
        suite.communicate()
    if found.exists():
        return msgspec.json.decode(found.read_bytes(), type=Report)
    words = log.read_text("utf-8", "replace")[-2000:]
    return Report(subject=subject, failures=[f"the suite stood still, or broke off, after {ended} tests {words}"])


def _counts(suite: subprocess.Popen[bytes]) -> Iterator[int]:
    """How many tests have ended, each time that it is told; until the end, or until nothing is told for long."""
    assert suite.stdout is not None
    while select.select([suite.stdout], [], [], SILENCE)[0] and (line := suite.stdout.readline()):
        yield int(line)


def main(folder: Path) -> None:
    """What that process runs: pytest, whatever the working directory says of it. Prints how many tests have ended."""
    import pytest

    from omniq.testing.conformance.base import Recorder, Report

    (folder / "pytest.ini").write_text("[pytest]\n")
    report, place = Report(), str(folder)
    beside = ["-p", "xdist.plugin", "-n", "2"] if find_spec("xdist") else []
    arguments = ["-c", f"{place}/pytest.ini", "--rootdir", place, "-p", "pytest_asyncio.plugin", "-p", "no:terminal"]
    with os.fdopen(os.dup(1), "w") as output:  # pytest captures what is printed
        recorder = Recorder(report, tell=lambda count: print(count, file=output, flush=True))
        code = pytest.main([*arguments, *beside, "-p", "no:cacheprovider", place], plugins=[recorder])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        report.failures.append(f"pytest ended with {code!r}")
    (folder / "report.json").write_bytes(msgspec.json.encode(report))


# ── the kill test ────────────────────────────────────────────────────────────


def kill(wish: Wish, url: str, folder: Path, report: Report, tell: Tell) -> None:
    """Add to the report what becomes of tasks whose workers are killed."""
    from omniq.storage.base import Capability
    from omniq.testing.conformance.base import new_project, open_store
    from omniq.testing.fleet import Options, kill_test

    declared = open_store(url, "task_queue", "default").capabilities
    if Capability.CROSS_PROCESS not in declared:
        report.extra["kill test"] = "not tried: not declared: cross-process"
        return
    if not any(spec.kind == "result_store" for spec in plugin(wish.name).specs):
        report.extra["kill test"] = "not tried: the plugin has no result store to judge by"
        return
    options = Options(url=url, project=new_project())
    try:
        outcome = _run(kill_test(options, folder, seconds=wish.seconds, tell=tell))
    except Exception as error:  # the store's own, too, where it lets them out
        report.failures.append(f"kill test: {type(error).__name__}: {error}")
        return
    report.extra["kill test"] = str(outcome)
    report.failures += outcome.failures


# ── leaving nothing behind ───────────────────────────────────────────────────


def left_in(journal: Path) -> list[str]:
    """The projects that were made and, after an interruption say, not dropped."""
    words = journal.read_text("utf-8").split() if journal.exists() else []
    gone = {word[1:] for word in words if word.startswith("-")}
    return [name for name in dict.fromkeys(word[1:] for word in words if word.startswith("+")) if name not in gone]


def tidy(url: str | None, journal: Path, tell: Tell) -> list[str]:
    """Drop what was left; nothing interrupts that. Returns what couldn't be dropped, with the reasons."""
    tell("")
    if url is None:
        return []
    with _signals(signal.SIG_IGN):
        return _run(drop(url, left_in(journal)))


async def drop(url: str, projects: Iterable[str]) -> list[str]:
    """Drop these projects, all at once. Returns those that couldn't be dropped, with the reasons."""
    ends = await asyncio.gather(*(_drop(url, project) for project in projects))
    return [end for end in ends if end is not None]


async def _drop(url: str, project: str) -> str | None:
    from omniq.testing.conformance.base import open_store

    store = open_store(url, "task_queue", project)
    try:
        async with asyncio.timeout(PATIENCE):
            await store.drop()
            await store.close()
    except Exception as error:  # the store's own, too, where it lets them out
        return f"{project} is left behind: {type(error).__name__}: {error}"
    return None


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)


@contextmanager
def _environment(url: str | None, journal: Path) -> Iterator[None]:
    """Without the user's settings: those are about tasks of their own, and the URL says all about the place."""
    before = dict(os.environ)
    for name in (name for name in before if name.startswith(PREFIX) and name not in OTHERS - {CONFIG_FILE}):
        del os.environ[name]
    os.environ[URL], os.environ[JOURNAL] = url or "", str(journal)
    os.environ["PYTHONSAFEPATH"] = "1"  # a module in the working directory may have the name of one that is needed
    # Else each worker warns of what it would run for whoever can write there.
    os.environ.update(CONFINED)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let the first of these signals end it; more of them mustn't disturb the tidying."""

    def interrupt(*_: object) -> NoReturn:
        for number in INTERRUPTIONS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    with _signals(interrupt):
        yield


@contextmanager
def _signals(handler: Any) -> Iterator[None]:
    """Handle what interrupts by this, except for what is ignored already."""
    before = {number: signal.getsignal(number) for number in INTERRUPTIONS}
    heard = [number for number in INTERRUPTIONS if before[number] is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
