"""The store that `omniq plugins new` writes can be selected, works, and holds the contract, as the example does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.core.plugin_sites import omniq
from tests.venvs import ROOT, fresh_venv, install_into, run

PATIENCE = 60.0

TASKS = """
    import pathlib, time
    def double(number):
        return 2 * number
    def shortly(marker):
        pathlib.Path(marker).touch()
        time.sleep(0.5)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Where `omniq-tray` was written and is installed, beside some tasks."""
    assert omniq(tmp_path, "plugins", "new", "tray").returncode == 0
    (tmp_path / "omniq_tray").symlink_to(tmp_path / "omniq-tray" / "src" / "omniq_tray")
    info = tmp_path / "omniq_tray-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: omniq-tray\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[omniq.plugins]\ntray = omniq_tray.plugin\n")
    (tmp_path / "jobs.py").write_text(textwrap.dedent(TASKS))
    return tmp_path


SELECTED = """
    from omniq import OmniQ
    from omniq.storage.breakers import unguarded
    import jobs
    with OmniQ({arguments}) as oq:
        print(type(unguarded(oq.aio.task_queue.store)).__name__, oq.aio.task_queue.store.location, flush=True)
        oq.start_worker()
        print(oq.get_result(oq.enqueue(jobs.double, [21]), timeout=30))
"""
QUEUE = "__import__('omniq_tray.components').components.TrayTaskQueue(base_dir='data')"
BY_HAND = "__import__('by_hand').queue"
WAYS = {
    "name": ("", {"OMNIQ_TASK_QUEUE_TYPE": "tray", "OMNIQ_BASE_DIR": "data"}),
    "yaml": ("", {"OMNIQ_CONFIG": "omniq.yaml"}),
    "dict": ("config={'task_queue': {'type': 'tray', 'config': {'base_dir': 'data'}}}", {}),
    "url": ("", {"OMNIQ_TASK_QUEUE_URL": "tray:///data"}),
    "class": (f"task_queue={QUEUE}", {}),
    "parts": (f"task_queue={BY_HAND}", {}),
}
PARTS = """
    from omniq.queue import AsyncTaskQueue
    from omniq_tray.config import TrayTaskQueueConfig
    from omniq_tray.stores import TrayTasks
    queue = AsyncTaskQueue(TrayTasks, TrayTaskQueueConfig(base_dir="data"))
"""


@pytest.mark.parametrize("way", WAYS)
def test_it_is_selected_as_any_store_is(way: str, site: Path) -> None:
    (site / "omniq.yaml").write_text("task_queue: {type: tray, config: {base_dir: data}}\n")
    (site / "by_hand.py").write_text(textwrap.dedent(PARTS))
    arguments, environ = WAYS[way]
    script = textwrap.dedent(SELECTED).format(arguments=arguments)
    ran = python(site, script, **environ)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [f"TrayTasks tray:{site}/data/default.tray", "42"]


def test_its_results_and_events_go_with_the_queue_of_another_store(site: Path) -> None:
    script = """
        from omniq import OmniQ
        import jobs
        with OmniQ() as oq:
            oq.start_worker()
            task_id = oq.enqueue(jobs.double, [21])
            print(oq.get_result(task_id, timeout=30))
            oq.stop_worker()
            print(oq.aio.task_queue.store.location.partition(":")[0], len(oq.list_events(task_id=task_id)))
            print(oq.aio.task_queue.stores.results.location, oq.aio.event_store.store.location)
    """
    environ = {"OMNIQ_RESULT_STORAGE_URL": "tray:///results", "OMNIQ_EVENT_STORAGE_TYPE": "tray"}
    ran = python(site, textwrap.dedent(script), **environ)
    assert ran.returncode == 0, ran.stderr
    places = f"tray:{site}/results/default.tray tray:{site}/.omniq/default.tray"
    assert ran.stdout.splitlines() == ["42", "sqlite 3", places]


def test_its_backend_brings_all_components(site: Path) -> None:
    script = """
        from omniq import OmniQ
        from omniq_tray.components import TrayBackend
        import jobs
        with OmniQ.from_backend(TrayBackend(base_dir="data", project_name="shop")) as oq:
            oq.start_worker()
            task_id = oq.enqueue(jobs.double, [21])
            oq.get_result(task_id, timeout=30)
            oq.stop_worker()
            print(sorted({str(event.type) for event in oq.list_events(task_id=task_id)}))
    """
    ran = python(site, textwrap.dedent(script))
    assert ran.returncode == 0, ran.stderr
    assert "COMPLETE" in ran.stdout.upper()


def test_a_program_may_end_without_closing_it(site: Path) -> None:
    """The worker hands back, or finishes, what it holds when the interpreter ends."""
    script = """
        import time
        from omniq import OmniQ
        import jobs
        oq = OmniQ()
        oq.start_worker("thread")
        print(oq.enqueue(jobs.double, [21], run_in=0.2))
        print(oq.enqueue(jobs.shortly, ["begun"]))
        while not __import__("os").path.exists("begun"):
            time.sleep(0.01)
    """
    environ = {"OMNIQ_TASK_QUEUE_URL": "tray:///data"}
    ran = python(site, textwrap.dedent(script), **environ)
    assert (ran.returncode, ran.stderr) == (0, "")
    states = json.loads(omniq(site, "tasks", "list", "--json", **environ).stdout)
    assert "running" not in {task["state"] for task in states}
    assert len(states) == 2


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_opens_its_own(site: Path) -> None:
    script = """
        import os, sys
        from omniq import OmniQ
        import jobs
        oq = OmniQ()
        oq.enqueue(jobs.double, [1])
        if (pid := os.fork()) == 0:
            oq.enqueue(jobs.double, [2])
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        oq.enqueue(jobs.double, [3])
        print(len(oq.list_tasks()))
    """
    ran = python(
        site,
        "import warnings; warnings.simplefilter('ignore')" + textwrap.dedent(script),
        OMNIQ_TASK_QUEUE_URL="tray:///data",
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "3\n", "")


def python(site: Path, script: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, "PYTHONPATH": str(site), **environ},
        cwd=site,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )


# ── the proof ────────────────────────────────────────────────────────────────

SELECT = """
from omniq import OmniQ
for queue in ({}, {"type": "tray"}, {"url": "tray:///data"}):
    with OmniQ(config={"task_queue": queue} if queue else None) as oq:
        print(oq.aio.task_queue.store.location)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_new_store_and_the_example_hold_where_only_core_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes next is typed as it is printed, but for the time of killing.

    `verify` runs the whole suite, so `pytest` runs a part of it.
    """
    programs = fresh_venv(tmp_path / "venv", "./omniq-core[testing]")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-q -W error -k TestDrop")
    _, _, commands = run(tmp_path, "omniq", "plugins", "new", "tray").partition("next:\n")
    commands = f"{commands.rstrip()} --seconds 5"  # of killing, instead of 15: what is killed is tried longer elsewhere
    _, tested, healthy, verified = [run(tmp_path, "sh", "-c", command) for command in commands.splitlines()]
    assert " passed" in tested.splitlines()[-1]
    assert healthy == "ok        tray (omniq-tray 0.1.0)\n"
    assert " run again" in passing(verified)
    assert list((tmp_path / "some" / "directory").iterdir()) == []
    places = [f"tray:{tmp_path}/{folder}/default.tray" for folder in (".omniq", ".omniq", "data")]
    assert run(tmp_path, "python", "-c", SELECT).splitlines() == places

    install_into(programs, f"{ROOT}/examples/omniq-lmdb")
    example = shutil.copytree(ROOT / "examples" / "omniq-lmdb", tmp_path / "omniq-lmdb", ignore=lambda *_: ["src"])
    assert "ok        lmdb (omniq-lmdb 0.1.0)\n" in run(tmp_path, "omniq", "plugins", "doctor")
    assert " passed" in run(example, "pytest").splitlines()[-1]


def passing(report: str) -> str:
    """What `verify` has printed, if the suite passes, and tells of the kill test."""
    head, *lines = report.splitlines()
    assert head.endswith(": it holds")
    return next(line for line in lines if line.startswith("  kill test"))
