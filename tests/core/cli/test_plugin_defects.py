"""`omniq plugins doctor`: each defect of a plugin is found and named, and a sound plugin is said to be so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.core.plugin_sites import install, omniq

PLUGIN: Final = """
from omniq.plugins import CommandSpec, EventStoreSpec, ResultStoreSpec, TaskQueueSpec, WorkerSpec, hookimpl

@hookimpl
def omniq_task_queues():
    return [TaskQueueSpec("NAME", "acme_NAME.store:Store", "acme_NAME.store:Config", url_schemes=("NAME",))]

@hookimpl
def omniq_workers():
    return [WorkerSpec("NAME", "acme_NAME.store:Worker")]

@hookimpl
def omniq_commands():
    return [CommandSpec("NAME", "acme_NAME.store:command")]
"""
STORE: Final = """
import click
from omniq.config.convert import read_url
from omniq.models.config import EventStorageConfig, TaskQueueConfig
from omniq.storage.base import Capability
from omniq.storage.documents import DocumentTaskQueue
from omniq.testing import ReferenceEventStore, ReferenceQueueStore, ReferenceResultStore
from omniq.testing.reference import DictDocuments
from omniq.workers.thread import ThreadPoolWorker

class Config(TaskQueueConfig, frozen=True, kw_only=True):
    shelf: str = "oak"

    @classmethod
    def from_url(cls, url):
        return read_url(url, cls, lambda parts: {})

class Store(ReferenceQueueStore):
    def __init__(self, config: Config) -> None:
        super().__init__("somewhere")

    def result_storage(self):
        return ReferenceResultStore(self.location.partition(":")[2])

class Worker(ThreadPoolWorker):
    pass

command = click.Command("NAME")
"""


class Case(NamedTuple):
    """One piece of a sound plugin, what stands there instead, and what the doctor says of it."""

    old: str
    new: str
    says: str


QUEUE = "class Store(ReferenceQueueStore):\n"
INIT = "    def __init__(self, config: Config)"
BODY = 'super().__init__("somewhere")'
DOCUMENTS = """
class Documents(DictDocuments):
    atomic = False

    @property
    def location(self):
        return "dict:here"

class Store(DocumentTaskQueue):
    capabilities = frozenset({Capability.ATOMIC_RESULTS})

    def result_storage(self):
        return ReferenceResultStore("elsewhere")

    def __init__(self, config):
        super().__init__(Documents())

class Other:
"""

CASES: Final = {
    # ── what a spec names ──
    "loadless": Case(
        "import click", "import driver_of_mine", "No module named 'driver_of_mine'; install driver_of_mine"
    ),
    "mistyped": Case(
        "class Store(", "class Stoer(", "store acme_mistyped.store:Store: it can't be loaded: AttributeError"
    ),
    "eventful": Case(QUEUE, QUEUE.replace("Queue", "Event"), "Store isn't a subclass of BaseTaskQueue; derive it from"),
    "function": Case(QUEUE, "def Store(config): pass\nclass Stores:\n", "an object of type function isn't a"),
    "eventconf": Case(
        "Config(TaskQueueConfig", "Config(EventStorageConfig", "Config isn't a subclass of TaskQueueConfig"
    ),
    # ── the class ──
    "abstract": Case(
        QUEUE,
        "class Store(DocumentTaskQueue):\n    claim = reap = DocumentTaskQueue.__mro__[-4].claim\n",
        "it lacks claim, reap; write what BaseTaskQueue declares abstract",
    ),
    "verbs": Case(INIT, f"    async def get(self, ids): ...\n{INIT}", "its get doesn't take self, ids, bodies"),
    "sizes": Case(INIT, f"    max_items = 0\n{INIT}", "its max_items is 0"),
    "capset": Case(INIT, f"    capabilities = {{Capability.PRIORITY}}\n{INIT}", "its capabilities are of type set"),
    "capnone": Case(INIT, f"    capabilities = None\n{INIT}", "its capabilities are of type NoneType"),
    "caplate": Case(INIT, f"    capabilities = property(lambda self: 1 / 0)\n{INIT}", "are of type property"),
    "capword": Case(
        INIT, f"    capabilities = frozenset({{'pirority'}})\n{INIT}", "'pirority', did you mean 'priority'?"
    ),
    "promising": Case(
        INIT,
        f"    capabilities = frozenset({{Capability.TRANSACTIONAL_ENQUEUE}})\n{INIT}",
        "it declares transactional-enqueue and has no add_within of its own",
    ),
    # ── the constructor, and what it makes ──
    "arguments": Case(INIT, "    def __init__(self, host, port)", "its constructor can't be called with one config"),
    "otherconf": Case("config: Config", "config: str", "its constructor takes a str as config"),
    "raising": Case(BODY, "self.path = config.path", "it can't be made: AttributeError: 'Config' object has no"),
    "exiting": Case(BODY, "raise SystemExit(0)", "it can't be made: SystemExit: 0"),
    "placeless": Case(BODY, "super().__init__(); self.space.location = ''", "its location is ''"),
    "moving": Case(BODY, "super().__init__()", "two of one config have the locations reference:"),
    "resultless": Case(
        "return ReferenceResultStore(",
        "return None\n        ReferenceResultStore(",
        "it declares atomic-results, and its result_storage() is None",
    ),
    "away": Case(QUEUE, DOCUMENTS, "its result_storage() is at reference:elsewhere, and it at dict:here"),
    "stepwise": Case(QUEUE, DOCUMENTS, "it declares atomic-results on documents that aren't atomic"),
    "together": Case(QUEUE, DOCUMENTS, "two projects share the documents at dict:here"),
    # ── the configuration ──
    "melting": Case("frozen=True, ", "frozen=False, ", "it isn't frozen"),
    "positional": Case(", kw_only=True", "", "shelf can be given by position; declare the struct kw_only=True"),
    "lenient": Case("kw_only=True", "kw_only=True, forbid_unknown_fields=False", "it passes over misspelt fields"),
    "defaults": Case(
        'shelf: str = "oak"', "shelf: str = 3", "refuses its own defaults: ConfigError: shelf: expected str"
    ),
    "project": Case("shelf: str", 'project = "p"\n    shelf: str', "its project isn't the project_name but 'p'"),
    "projects": Case(
        '    shelf: str = "oak"\n',
        '    shelf: str = "oak"\n    def __post_init__(self): assert self.project_name is None\n',
        "it refuses a project_name: AssertionError",
    ),
    # ── URLs ──
    "urlless": Case("def from_url", "def of_url", "url_schemes urlless: Config has no from_url; write it, or leave"),
    "urlfails": Case(
        "return read_url", "return {}[url]\n        read_url", "Config.from_url('urlfails:///doctor') raises KeyError"
    ),
    "urlexits": Case("return read_url", "exit()\n        read_url", "raises SystemExit"),
    "urlof": Case("@classmethod", "@staticmethod", "Config.from_url isn't a class method; decorate it"),
    "urldict": Case("return read_url", "return {}\n        read_url", "returns an object of type dict"),
    "urlother": Case(
        "return read_url",
        "raise ValueError('no shelf')\n        read_url",
        "understands no urlother:// URL that was tried",
    ),
    "urlextra": Case(
        "return read_url", "return cls()\n        read_url", "Config.from_url passes over misspelt options"
    ),
    # ── names ──
    "word": Case('url_schemes=("NAME",)', 'url_schemes="NAME"', "url_schemes word: it is of type str"),
    "taken": Case('TaskQueueSpec("NAME"', 'TaskQueueSpec("gcs"', "'gcs' is omniq-fsspec's, beside which"),
    "hidden": Case(
        'CommandSpec("NAME"', 'CommandSpec("worker"', "command 'worker', name worker: it is hidden by OmniQ's own"
    ),
    # ── workers and commands ──
    "idle": Case(
        "Worker(ThreadPoolWorker)", "Worker", "Worker isn't a subclass of Worker; derive it from omniq.workers.base:"
    ),
    "runnerless": Case("    pass", "    runner = kind = None", "its `runner` isn't a subclass of Runner"),
    "configless": Case("    pass", "    config_class = dict", "its `config_class` isn't a subclass of WorkerConfig"),
    "computed": Case(
        "class Worker(ThreadPoolWorker):",
        "class Meta(type(ThreadPoolWorker)):\n    runner = property(lambda cls: 1 / 0)\n"
        "class Worker(ThreadPoolWorker, metaclass=Meta):",
        "it can't be looked at: ZeroDivisionError",
    ),
    "number": Case("command = ", "command = 3 or ", "it isn't a click command but of type int"),
    # ── the plugin module ──
    "driver": Case(
        "from omniq.plugins",
        "import hypothesis\nfrom omniq.plugins",
        "acme_driver.plugin: importing it imports hypothesis, sortedcontainers;",
    ),
    "eager": Case(
        "from omniq.plugins", "import acme_eager.store\nfrom omniq.plugins", "importing it imports acme_eager.store"
    ),
    "helpless": Case('store:command")', 'store:command", help=None)', "expected a line of help, got None"),
    "quitting": Case("from omniq.plugins", "raise GeneratorExit\nfrom omniq.plugins", "it is broken: GeneratorExit"),
    "nothing": Case("from omniq.plugins", "import nowhere\nfrom omniq.plugins", "it is broken: ModuleNotFoundError"),
    "double": Case('TaskQueueSpec("NAME"', 'TaskQueueSpec("sqlite"', "it is conflict: plugin"),
}


def write(site: Path, name: str, old: str = "", new: str = "") -> None:
    """Install a sound plugin, but for one piece."""
    texts = [text.replace(old, new, 1) if old else text for text in (PLUGIN, STORE)]
    plugin, store = [text.replace("NAME", name) for text in texts]
    install(site, name, plugin, store=store)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a sound plugin is installed, and one for each case."""
    site = tmp_path_factory.mktemp("site")
    write(site, "sound")
    for name, case in CASES.items():
        write(site, name, case.old, case.new)
    return site


@pytest.fixture(scope="module")
def told(site: Path) -> dict[str, dict[str, Any]]:
    """What the doctor tells of each plugin."""
    checked = omniq(site, "plugins", "doctor", "--json")
    assert checked.returncode == 1, checked.stderr
    return {plugin["name"]: plugin for plugin in json.loads(checked.stdout)}


@pytest.mark.parametrize("name", CASES)
def test_a_defect_is_found(name: str, told: dict[str, dict[str, Any]]) -> None:
    assert told[name]["verdict"] == "broken"
    assert CASES[name].says in "\n".join(map(line, told[name]["defects"]))


def line(defect: dict[str, Any]) -> str:
    """A defect as it is printed."""
    place = " ".join(filter(None, (defect["field"], defect["value"])))
    where = ", ".join(filter(None, (defect["spec"], place)))
    return f"{defect['distribution']}: {where}: {defect['what']}; {defect['remedy']}"


@pytest.mark.parametrize("name", ["builtin", "sound", "postgres", "redis", "sqlite"])
def test_a_sound_plugin_is_ok(name: str, told: dict[str, dict[str, Any]]) -> None:
    assert told[name]["defects"] == []
    assert told[name]["verdict"] == "ok"


def test_one_plugin_can_be_looked_at(site: Path) -> None:
    sound = omniq(site, "plugins", "doctor", "sound")
    assert (sound.returncode, sound.stdout, sound.stderr) == (0, "ok        sound (acme-sound 1.2)\n", "")
    broken = omniq(site, "plugins", "doctor", "moving")
    assert (broken.returncode, broken.stderr) == (1, "error: 1 defect found\n")
    assert broken.stdout.startswith(
        "broken    moving (acme-moving 1.2)\n"
        "          acme-moving: task queue 'moving', store acme_moving.store:Store: two of one config have"
    )
    unknown = omniq(site, "plugins", "doctor", "sond")
    assert (unknown.returncode, unknown.stderr) == (3, "error: there is no plugin 'sond', did you mean 'sound'?\n")


def test_a_plugin_that_prints_is_told_of_and_spoils_no_report(tmp_path: Path) -> None:
    write(tmp_path, "loud", "from omniq.plugins", "print('hello')\nfrom omniq.plugins")
    checked = omniq(tmp_path, "plugins", "doctor", "loud", "--json")
    assert (checked.returncode, checked.stderr) == (1, "hello\nerror: 1 defect found\n")
    assert [defect["what"] for defect in json.loads(checked.stdout)[0]["defects"]] == ["importing it prints 'hello\\n'"]


def test_the_last_words_of_a_plugin_are_no_answer(tmp_path: Path) -> None:
    write(tmp_path, "parting", "from omniq.plugins", "import atexit\natexit.register(print, 'bye')\nfrom omniq.plugins")
    checked = omniq(tmp_path, "plugins", "doctor", "parting")
    assert (checked.returncode, checked.stdout) == (0, "ok        parting (acme-parting 1.2)\nbye\n")


def test_one_that_is_disabled_has_no_defects(site: Path) -> None:
    checked = omniq(site, "plugins", "doctor", "moving", OMNIQ_DISABLE_PLUGINS="moving")
    assert (checked.returncode, checked.stdout) == (0, "disabled  moving (acme-moving 1.2)\n")
