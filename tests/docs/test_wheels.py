"""What `pip install` brings from built wheels into empty environments: no more than is needed, and it works.

All share one folder of wheels, and uv's cache. Versions are those that the workspace is pinned to.
"""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

from tests.idle.places import place
from tests.venvs import ROOT, UV, run

pytestmark = pytest.mark.slow

DISTRIBUTIONS = sorted(path.parent.name for path in ROOT.glob("omniq-*/pyproject.toml"))
CORE = {"click", "croniter", "dill", "msgspec", "omniq-core", "pluggy", "python-dateutil", "pyyaml", "six"}
EXTRAS: dict[str, set[str]] = {
    "": set(),
    "sqlite": {"aiosqlite", "omniq-sqlite"},
    "postgres": {"asyncpg", "omniq-postgres"},
    "redis": {"omniq-redis", "redis"},
    "nats": {"nats-py", "omniq-nats"},
    "fsspec": {"fsspec", "omniq-fsspec"},
    "s3": {"fsspec", "omniq-fsspec", "s3fs"},
    "azure": {"adlfs", "fsspec", "omniq-fsspec"},
    "gcs": {"fsspec", "gcsfs", "omniq-fsspec"},
    "gevent": {"gevent", "greenlet", "omniq-gevent", "zope-event", "zope-interface"},
    "rich": {"markdown-it-py", "mdurl", "pygments", "rich"},
    "uvloop": {"uvloop"},
    "testing": {"hypothesis", "iniconfig", "packaging", "pygments", "pytest", "pytest-asyncio", "sortedcontainers"},
    "all": {*DISTRIBUTIONS, "adlfs", "aiosqlite", "asyncpg", "fsspec", "gcsfs", "gevent", "rich", "s3fs", "uvloop"},
}
"""What each extra brings besides core, all of it; of what fsspec's cloud clients bring, and `all`, the main parts."""
BACKPORTS = {"async-timeout", "typing-extensions", "zope-event"}
"""What only some of the supported Pythons need, or some versions."""
LARGE = {"all", "azure", "gcs", "s3"}
PLACES = {
    "sqlite": "sqlite",
    "fsspec": "file",
    "postgres": "postgres",
    "redis": "redis",
    "nats": "nats",
    "all": "sqlite",
}
"""The extras that bring a store, and where the quickstart is run on it."""

RUNS_ON_GREENLETS = """
from omniq import OmniQ
from omniq.models import TaskQueueConfig
from omniq.queue import AsyncTaskQueue
from omniq.testing import ReferenceQueueStore

with OmniQ(task_queue=AsyncTaskQueue(lambda _: ReferenceQueueStore("greenlets"), TaskQueueConfig())) as oq:
    oq.start_worker("gevent")
    print(oq.get_result(oq.enqueue(max, [[1, 3, 2]]), timeout=30))
"""
RUNS_AND_SAYS_WHAT_IS_MISSING = """
import importlib.util, json
from importlib import import_module
from omniq.exports import FIRST_PARTY, FRONTS

from omniq.testing import Sandbox

with Sandbox() as app:
    task_id = app.enqueue(max, [[1, 3, 2]])
    app.drain()
    assert app.get_result(task_id) == 3

said = {}
for extra, ours in FIRST_PARTY.items():
    for name, module in ours.classes(f"omniq_{extra}"):
        try:
            getattr(import_module(FRONTS[module.partition(".")[2]]), name)
            said[name] = "there"
        except ImportError as error:
            assert str(error) == f'{name} needs omniq-{extra}: pip install "omniq-core[{extra}]"', error
            said[name] = extra
print(json.dumps(said))
"""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other process is at this at the same time."""
    with (folder / "wheels.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of the wheels of all distributions, and of constraints, which all processes of this run share."""
    if UV is None:
        pytest.skip("needs uv to build and install wheels, which isn't on the PATH")
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    folder = shared / "wheels"
    with alone(shared):
        if not (folder / "constraints.txt").exists():
            run(ROOT, UV, "build", "--quiet", "--all-packages", "--wheel", "--out-dir", folder)
            write_constraints(folder)
    return folder


def write_constraints(folder: Path) -> None:
    """Our distributions are these wheels and nothing that an index has; all else is as pinned."""
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["uv"]["constraint-dependencies"]
    ours = [f"{name_of(wheel)} @ {wheel.as_uri()}" for wheel in sorted(folder.glob("*.whl"))]
    (folder / "constraints.txt").write_text("\n".join([*pins, *ours]) + "\n", "utf-8")


def name_of(wheel: Path) -> str:
    return wheel.name.partition("-")[0].replace("_", "-")


def install(at: Path, wheels: Path, extra: str) -> Path:
    """An environment with nothing but core and an extra; returns its Python."""
    assert UV is not None
    run(ROOT, UV, "venv", "--quiet", "--python", sys.executable, at)
    python, (core,) = at / "bin" / "python", wheels.glob("omniq_core-*.whl")
    wanted = f"omniq-core{f'[{extra}]' if extra else ''} @ {core.as_uri()}"
    options: list[str | Path] = ["--quiet", "--constraint", wheels / "constraints.txt", "--python", python]
    run(at, UV, "pip", "install", *options, wanted)
    return python


def installed(python: Path) -> set[str]:
    assert UV is not None
    listed = run(ROOT, UV, "pip", "list", "--quiet", "--format", "json", "--python", python)
    return {package["name"] for package in json.loads(listed)}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_it_needs_and_works(extra: str, wheels: Path, tmp_path: Path) -> None:
    python = install(tmp_path / "venv", wheels, extra)
    there = installed(python)
    assert there >= CORE | EXTRAS[extra]
    assert extra in LARGE or there <= CORE | EXTRAS[extra] | BACKPORTS
    assert {name for name in there if name.startswith("omniq-")} == ours_of(extra)

    said = json.loads(run(tmp_path, python, "-W", "error", "-c", RUNS_AND_SAYS_WHAT_IS_MISSING))
    assert {f"omniq-{found}" for found in said.values() if found != "there"} == set(DISTRIBUTIONS) - there
    assert said["SQLiteTaskQueue"] == ("there" if extra in ("sqlite", "all") else "sqlite")

    if extra in PLACES:
        assert "11 files" in quickstart(python, tmp_path, PLACES[extra])
    if extra in ("gevent", "all"):
        (tmp_path / "program.py").write_text(RUNS_ON_GREENLETS, "utf-8")
        assert run(tmp_path, python, "program.py") == "3\n"


def ours_of(extra: str) -> set[str]:
    """Our own distributions that an extra brings."""
    return {"omniq-core"} | {name for name in EXTRAS[extra] if name.startswith("omniq-")}


def quickstart(python: Path, cwd: Path, store: str) -> str:
    """What the quickstart prints, on a store of that kind; SQLite is the one that it takes by itself."""
    main = ROOT / "examples" / "quickstart" / "main.py"
    with place(store) as there:
        where = [] if store == "sqlite" else ["env", f"OMNIQ_TASK_QUEUE_URL={there.url}"]
        return run(cwd, *where, python, main)


def test_core_alone_has_a_command_that_says_what_to_install(wheels: Path, tmp_path: Path) -> None:
    python = install(tmp_path / "venv", wheels, "")
    assert "Usage: omniq" in run(tmp_path, python.with_name("omniq"), "--help")
    main = ROOT / "examples" / "quickstart" / "main.py"
    ran = subprocess.run([python, main], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode != 0
    assert ran.stderr.splitlines()[-1].endswith('no task queue is installed: pip install "omniq-core[sqlite]"')


# ── what the wheels say of themselves ────────────────────────────────────────


def metadata_of(wheel: Path) -> tuple[Message, list[str]]:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (path,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        return message_from_string(archive.read(path).decode("utf-8")), names


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_wheel_says_what_it_is(distribution: str, wheels: Path) -> None:
    (wheel,) = wheels.glob(f"{distribution.replace('-', '_')}-*.whl")
    said, names = metadata_of(wheel)
    package = distribution.replace("-", "_").removesuffix("_core")
    assert (said["Name"], said["License-Expression"], said["Requires-Python"]) == (distribution, "MIT", ">=3.11")
    assert said["License-File"] == "LICENSE"
    assert said["Description-Content-Type"] == "text/markdown"
    assert re.match(rf"# {distribution}\n", str(said.get_payload()))
    assert said["Summary"].endswith(".")
    assert {"Typing :: Typed", "Operating System :: POSIX"} <= set(said.get_all("Classifier", []))
    assert f"{package}/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0] for name in names} == {
        package,
        f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info",
    }


def test_each_distribution_has_the_licence_of_all() -> None:
    licence = (ROOT / "LICENSE").read_text("utf-8")
    assert [name for name in DISTRIBUTIONS if (ROOT / name / "LICENSE").read_text("utf-8") != licence] == []


def test_every_extra_is_tried() -> None:
    project = tomllib.loads((ROOT / "omniq-core" / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(extras) == EXTRAS.keys() - {""}
    (everything,) = extras["all"]
    listed = everything.partition("[")[2].rstrip("]").split(",")
    assert listed == sorted(set(extras) - {"all", "testing"})
