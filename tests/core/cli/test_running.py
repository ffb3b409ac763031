"""`omniq worker APP`: what is refused before anything starts, several processes, and starting again after a change."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psutil
import pytest
from omniq import AsyncOmniQ
from omniq.models import TaskState

from tests.core import tasks
from tests.core.cli import tasks as cli_tasks
from tests.core.cli.process import PATIENCE, WorkerProcess
from tests.core.cli.support import run
from tests.core.support import front_door, lines, results_of, sqlite_place, states_of, until, until_states

APP = """
from omniq import AsyncOmniQ, OmniQ

CONFIG = {{"task_queue": "sqlite:///{path}/omniq.db?synchronous=NORMAL"}}
WORKER = {{"max_workers": 3}}
oq = OmniQ(worker_type="thread", worker_config=WORKER, config=CONFIG)
three = 3

def make():
    return AsyncOmniQ(worker_type="thread", worker_config=WORKER, config=CONFIG)

def made_of(config):
    return oq

async def awaited():
    return oq

def fails():
    raise LookupError("it is\\nout")
"""
"""A program; the tests of one process each give it another name, since it stays imported."""


@pytest.fixture
async def oq(tmp_path: Path) -> AsyncIterator[AsyncOmniQ]:
    """OmniQ in the test's own process, where the program has it too."""
    async with front_door(sqlite_place(tmp_path)) as oq:
        yield oq


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The program `app`, in the test's directory."""
    (tmp_path / "app.py").write_text(APP.format(path=tmp_path))
    return tmp_path


# ── what is refused ──────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["{shpo}:oq"], 2, "APP: there is no module '{shpo}' here, did you mean '{shop}'?"),
        (["nowhere.at.all:oq"], 2, "APP: there is no module 'nowhere' here; is it installed, or on sys.path?"),
        (["{shop}.x:oq"], 2, "APP: there is no module '{shop}.x' here"),
        (["{shop}"], 2, "APP: expected module:attribute, such as shop.app:oq, got '{shop}', did you mean '{shop}:oq'?"),
        (["./{shop}.py:oq"], 2, ", did you mean '{shop}:oq'?"),
        (["{shop}.py:oq"], 2, "APP: there is no module '{shop}.py' here, did you mean '{shop}'?"),
        ([":"], 2, "APP: expected module:attribute, such as shop.app:oq, got ':'"),
        (["{shop}:xyz"], 2, "APP: {shop} has no attribute 'xyz'; it has oq"),
        (["{shop}:mke"], 2, "APP: {shop} has no attribute 'mke', did you mean 'make'?"),
        (["{shop}:three"], 2, "APP: {shop}:three is of type int, expected an OmniQ, an AsyncOmniQ, or a function"),
        (["{shop}:awaited"], 2, "APP: {shop}:awaited is of type coroutine, expected an OmniQ"),
        (["{shop}:made_of"], 2, "APP: {shop}:made_of can't be called without arguments: missing a required argument"),
        (["{shop}:fails"], 1, "APP: {shop}:fails failed: LookupError: it is out ({shop}.py, line 19; --debug shows"),
        (["{shop}_a:oq"], 1, "APP: {shop}_a can't be imported: ModuleNotFoundError: No module named 'nothing'"),
        (["{shop}_a:oq"], 1, "({shop}_a.py, line 2; --debug shows the traceback)"),
        (["{shop}_b:oq"], 1, "APP: {shop}_b can't be imported: SyntaxError: invalid syntax ({shop}_b.py, line 1; "),
        (["{shop}_c:oq"], 1, "APP: {shop}_c can't be imported: SystemExit: 3 ({shop}_c.py, line 1; "),
        (["{shop}_d:oq"], 1, "json.decoder.JSONDecodeError: "),
        (["{shop}_d:oq"], 1, " ({shop}_d.py, line 1; --debug shows the traceback)"),
        (["{shop}:oq", "--url", "sqlite:///x.db"], 2, "--url: APP says where the queue is; give one or the other"),
        (["{shop}:oq", "--project", "x"], 2, "--project: APP says where the queue is; give one or the other"),
    ],
)
def test_one_line_says_what_is_wrong_with_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, complaint: str
) -> None:
    shop = f"shop{abs(hash(tmp_path))}"
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{shop}.py").write_text(APP.format(path=tmp_path))
    (tmp_path / f"{shop}_a.py").write_text("\nimport nothing")
    (tmp_path / f"{shop}_b.py").write_text("def f(:")
    (tmp_path / f"{shop}_c.py").write_text("raise SystemExit(3)")
    (tmp_path / f"{shop}_d.py").write_text("import json; json.loads('{')")
    names = {"shop": shop, "shpo": shop.replace("shop", "shpo")}
    result = run("worker", *(argument.format(**names) for argument in arguments))
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert complaint.format(**names) in line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--concurrency", "0"], "Invalid value for '--concurrency': 0 is not in the range 1<=x<=10000."),
        (["--processes", "0"], "Invalid value for '--processes': 0 is not in the range 1<=x<=1000."),
        (["--typ", "async"], "No such option '--typ'. Did you mean '--type'?"),
        (["app:oq", "more"], "Got unexpected extra argument (more)"),
        (["app:some.oq"], "got 'app:some.oq' "),
        (["--processes", "3", "--health-port", "65534"], "each worker has one, and there are no 3 from 65534 on"),
    ],
)
def test_a_wrong_option_is_refused(arguments: list[str], complaint: str) -> None:
    result = run("worker", *arguments)
    assert result.exit_code == 2
    assert complaint in " ".join([*result.stderr.split(), ""])


def test_a_traceback_is_shown_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_shop.py").write_text("from nothing import more")
    for arguments in (["--debug", "worker", "broken_shop:oq"], ["worker", "broken_shop:oq", "--debug"]):
        said = run(*arguments).stderr.splitlines()
        assert said[0] == "Traceback (most recent call last):"
        assert said[-2] == "ModuleNotFoundError: No module named 'nothing'"
        assert said[-1].startswith("error: APP: broken_shop can't be imported: ModuleNotFoundError: ")


# ── signals before it works ──────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_while_its_program_is_imported_it_is_asked_and_stopped_in_order(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "slow.py").write_text("import sys, time\nprint('here', file=sys.stderr)\ntime.sleep(60)")
    with WorkerProcess(None, "slow:oq", directory=tmp_path) as worker:
        worker.hears("here")
        worker.signal(signal.SIGQUIT)
        worker.hears("no worker works here just now:")
        worker.hears("slow.py")
        worker.signal(number)
        assert worker.ends() == 0


def test_one_that_is_starting_lives_on_when_its_supervisor_is_asked(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import sys, time\nprint('here', file=sys.stderr)\ntime.sleep(60)")
    with WorkerProcess(None, "slow:oq", "--processes", "1", directory=tmp_path) as worker:
        worker.hears("here")
        worker.signal(signal.SIGQUIT)
        worker.hears(" is starting")
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    assert not any("another one takes its place" in line for line in worker.said)


def test_it_is_stopped_in_order_while_its_store_is_silent(tmp_path: Path) -> None:
    pytest.importorskip("omniq_redis")
    silent = socket.create_server(("127.0.0.1", 0))
    silent.settimeout(PATIENCE)
    url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
    with silent, WorkerProcess(url, directory=tmp_path) as worker, silent.accept()[0]:
        worker.signal(signal.SIGTERM)
        assert worker.ends(within=2) == 0


# ── a program ────────────────────────────────────────────────────────────────


async def test_what_a_program_says_holds_unless_an_option_says_otherwise(oq: AsyncOmniQ, app: Path) -> None:
    task_id = await oq.enqueue(tasks.add, [1, 2])
    with WorkerProcess(None, "app:make", "--burst", "--concurrency", "7", directory=app) as worker:
        assert worker.greets().endswith(f" (thread, 7 slots) serves default in sqlite:{app}/omniq.db")
        assert worker.ends() == 0
    assert await results_of(oq, [task_id]) == [3]


# ── several processes ────────────────────────────────────────────────────────


def supervised(directory: Path, *options: str, processes: int = 2) -> WorkerProcess:
    """A supervisor."""
    return WorkerProcess(None, "app:oq", "--processes", str(processes), *options, directory=directory)


def pids(worker: WorkerProcess) -> list[int]:
    """Those of the workers, once both work."""
    for _ in range(2):
        worker.greets()
    return [int(found[1]) for line in worker.said if (found := re.search(r"has pid (\d+)", line))]


async def test_a_worker_that_dies_is_replaced_and_all_are_stopped_in_order(
    oq: AsyncOmniQ, app: Path, log: Path, gate: Path
) -> None:
    with supervised(app) as worker:
        first, _ = pids(worker)
        os.kill(first, signal.SIGSEGV)
        assert re.search(rf"process 1 \(pid {first}\) was killed by SIGSEGV after ", worker.hears("SIGSEGV"))
        assert worker.hears("takes its place").endswith("worker process 1: another one takes its place in 0.5 s")
        worker.greets()
        ids = [await oq.enqueue(tasks.wait_for, [str(gate), str(log)]) for _ in range(4)]
        await until(lambda: len(lines(log)) == 4)
        for process in [*psutil.Process(worker.pid).children(), psutil.Process(worker.pid)]:
            process.terminate()  # as a service manager does with all processes of a service
        for _ in range(2):
            worker.hears("stopping, waiting up to 10 s")
        gate.touch()
        assert worker.ends() == 0
    assert worker.said[-1] == "all worker processes have ended, exit code 0"
    assert await results_of(oq, ids) == ["done"] * 4
    assert len(lines(log)) == 4


async def test_in_burst_mode_all_end_when_all_is_done(oq: AsyncOmniQ, app: Path) -> None:
    ids = [await oq.enqueue(tasks.add, [n, n]) for n in range(50)]
    with supervised(app, "--burst") as worker:
        assert worker.ends() == 0
    assert await states_of(oq, ids) == [TaskState.SUCCESS] * 50


def test_what_no_worker_can_work_with_ends_the_supervisor(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from omniq import OmniQ; oq = OmniQ(config={'task_queue': 'memory://'})")
    with supervised(tmp_path) as worker:
        assert worker.ends() == 2
    assert "lives in one process, so no 2 can serve it" in worker.said[1]
    assert len(worker.said) == 4  # there was no second one


def test_a_server_that_is_away_at_the_start_ends_it(tmp_path: Path) -> None:
    (tmp_path / "omniq.db").mkdir()
    url = f"sqlite:///{tmp_path}/omniq.db"
    with WorkerProcess(url, "--processes", "2", directory=tmp_path) as worker:
        assert worker.ends() == 1
    assert [line for line in worker.said if line.endswith(": unable to open database file")]


def test_each_worker_tells_of_its_health_on_a_port_of_its_own(app: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
    with supervised(app, "--health-port", str(port)) as worker:
        for number in range(2):
            assert worker.hears(f"health at http://127.0.0.1:{port + number}")


@pytest.mark.starvable
async def test_a_second_signal_ends_all_at_once(oq: AsyncOmniQ, app: Path, log: Path, gate: Path) -> None:
    ids = [await oq.enqueue(tasks.wait_for, [str(gate), str(log)]) for _ in range(4)]
    with supervised(app, "--grace-period", "1h") as worker:
        await until(lambda: len(lines(log)) == 4)
        worker.signal(signal.SIGINT, group=True)
        worker.hears("again to stop at once")
        worker.signal(signal.SIGINT, group=True)
        assert worker.ends(within=1.0) == 130
    await assert_uncharged(oq, ids)


@pytest.mark.starvable
async def test_no_child_outlives_a_supervisor_that_is_killed(oq: AsyncOmniQ, app: Path, log: Path, gate: Path) -> None:
    ids = [await oq.enqueue(tasks.wait_for, [str(gate), str(log)]) for _ in range(2)]
    with supervised(app, "--type", "process", "--concurrency", "1", "--lease", "1h") as worker:
        await until(lambda: len(lines(log)) == 2)
        pids(worker)
        children = psutil.Process(worker.pid).children(recursive=True)
        worker.signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=2.0)
    assert alive == []
    await assert_uncharged(oq, ids)


@pytest.mark.starvable
@pytest.mark.parametrize("kind", ["process", "gevent"])
async def test_nor_what_it_has_started_a_worker_that_is_killed(oq: AsyncOmniQ, app: Path, log: Path, kind: str) -> None:
    await oq.enqueue(cli_tasks.start_a_program, [str(log)])
    with WorkerProcess(None, "app:oq", "--type", kind, "--concurrency", "1", directory=app) as worker:
        await until(lambda: len(lines(log)) == 1)
        children = psutil.Process(worker.pid).children(recursive=True)
        worker.signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=2.0)
        assert worker.ends() == -signal.SIGKILL
    assert alive == []
    assert len(children) == 2
    assert not [line for line in worker.said if "Exception ignored" in line]


async def assert_uncharged(oq: AsyncOmniQ, ids: Sequence[str]) -> None:
    """They are in line as if nobody had ever claimed them."""
    await until_states(oq, ids, TaskState.PENDING)
    found = [await oq.get_task(id_) for id_ in ids]
    assert {(task.attempts, task.crashes) for task in found} == {(0, 0)}


# ── starting again ───────────────────────────────────────────────────────────


def test_a_change_of_the_program_is_followed_and_one_that_breaks_it_is_told(app: Path) -> None:
    part = app / "part.py"
    part.write_text("")
    (app / "app.py").write_text(APP.format(path=app) + "\nimport part")
    with WorkerProcess(None, "app:oq", "--reload", directory=app) as worker:
        worker.greets()
        part.write_text("def answer(:")
        assert worker.hears("has changed") == "part.py has changed, reloading"
        assert "SyntaxError: invalid syntax (part.py, line 1; " in worker.hears("error: APP: app can't be imported")
        worker.hears("waiting for the program to change")
        part.write_text("import sys; print('here again', file=sys.stderr)")
        worker.hears("here again")
        worker.greets()
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    assert len({line.split()[1].rpartition("-")[0] for line in worker.said if " serves " in line}) == 1  # one process


async def test_a_running_task_is_handed_back_for_a_change(oq: AsyncOmniQ, app: Path, log: Path, gate: Path) -> None:
    task_id = await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)])
    with WorkerProcess(None, "app:oq", "--reload", "--type", "async", "--grace-period", "0", directory=app) as worker:
        await until(lambda: len(lines(log)) == 1)
        (app / "app.py").write_text(APP.format(path=app) + "\n\n")
        worker.hears("has changed, reloading")
        gate.touch()
        worker.greets()
        assert await results_of(oq, [task_id]) == ["done"]
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
