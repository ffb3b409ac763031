"""Whether a worker is live and ready, as its port and `omniq health` tell."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.cli import health
from omniq.cli.app import Failure
from omniq.cli.health import HealthServer
from omniq.errors import StoreUnavailable
from omniq.models import BreakerConfig, TaskState
from omniq.storage.breakers import breaker_at
from omniq.storage.records import BreakerState, Change, TaskRecord
from omniq.testing import ReferenceQueueStore, ReferenceSpace

from tests.core import tasks
from tests.core.cli import tasks as cli_tasks
from tests.core.cli.process import WorkerProcess
from tests.core.cli.support import Cli
from tests.core.cli.support import run as run_cli
from tests.core.support import (
    front_door,
    lines,
    reference_place,
    sqlite_place,
    until,
    until_states,
    working,
    working_elsewhere,
)

held_up = threading.Event()


async def block_the_loop() -> None:
    """Let nothing else onto the loop until the event is set."""
    held_up.wait(30.0)


@pytest.fixture
def server() -> Iterator[HealthServer]:
    """One on a port of its own, of no worker yet."""
    with HealthServer.at("127.0.0.1", 0) as server:
        yield server


def port_of(server: HealthServer) -> int:
    return int(server.url.rpartition(":")[2])


def exchange(server: HealthServer, request: bytes) -> bytes:
    """What comes back for a request."""
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=10.0) as client:
        client.sendall(request)
        with client.makefile("rb") as answer:
            return answer.read()


def ask(server: HealthServer, path: str = "/", method: str = "GET") -> tuple[int, dict[str, Any]]:
    """The answer's status and body."""
    head, _, body = exchange(server, f"{method} {path} HTTP/1.1\r\nHost: worker\r\n\r\n".encode()).partition(
        b"\r\n\r\n"
    )
    return int(head.split()[1]), json.loads(body or b"{}")


async def until_answers(server: HealthServer, path: str, status: int) -> dict[str, Any]:
    """Ask until that is the answer's status."""
    deadline = time.monotonic() + 20.0
    while (answer := await asyncio.to_thread(ask, server, path))[0] != status:
        assert time.monotonic() < deadline, answer
        await asyncio.sleep(0.01)
    return answer[1]


# ── what is told ─────────────────────────────────────────────────────────────


async def test_it_is_live_from_the_start_and_ready_as_long_as_it_takes_tasks(server: HealthServer) -> None:
    assert ask(server, "/live") == (200, {"live": True})
    assert ask(server, "/ready") == (503, {"ready": False, "reasons": ["it is starting"]})
    async with front_door(reference_place()) as oq:
        async with working(oq, "thread") as pool:
            server.pool = pool
            await oq.get_result(await oq.enqueue(tasks.add, [1, 2]))
            assert await until_answers(server, "/ready", 200) == {"ready": True}
            status, told = await asyncio.to_thread(ask, server)
            assert (status, told["worker"], told["kind"], told["slots"]) == (200, pool.name, "thread", 2)
            assert (told["live"], told["ready"], told["queues"]) == (True, True, ["high", "default", "low"])
            await until(lambda: ask(server)[1]["ended"] == {"success": 1})
        assert ask(server, "/live") == (200, {"live": True})
        assert ask(server, "/ready") == (503, {"ready": False, "reasons": ["it is stopping"]})
        assert ask(server)[0] == 503


async def test_it_is_not_live_while_its_loop_stands_still(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LEASES", 0)
    monkeypatch.setattr(health, "AT_LEAST", 0.5)
    held_up.clear()
    async with front_door(reference_place()) as oq, working_elsewhere(oq, "async", lease=30.0) as pool:
        server.pool = pool
        blocking = await oq.enqueue(block_the_loop)
        told = await until_answers(server, "/live", 503)
        assert "its event loop stands still" in told["reasons"][0]
        assert ask(server, "/ready")[0] == 503
        held_up.set()
        await oq.get_result(blocking, timeout=20.0)
        await until_answers(server, "/live", 200)


class Patchy(ReferenceQueueStore):
    """A store whose claims aren't answered for a while, or answered with an error."""

    def __init__(self, space: ReferenceSpace) -> None:
        super().__init__(space)
        self.answers = asyncio.Event()
        self.answers.set()
        self.away = False

    async def claim(self, *args: Any, **kwargs: Any) -> list[TaskRecord]:
        await self.answers.wait()
        if self.away:
            raise StoreUnavailable("it is away")
        return await super().claim(*args, **kwargs)


@pytest.mark.starvable
async def test_a_store_that_is_silent_makes_it_not_live_and_one_that_is_away_does_not(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LEASES", 0)
    monkeypatch.setattr(health, "AT_LEAST", 1.0)
    store = Patchy(ReferenceSpace())
    async with front_door(reference_place(queue=lambda _: store)) as oq, working(oq, "async") as pool:
        server.pool = pool
        await until_answers(server, "/live", 200)
        store.answers.clear()
        assert "its store is silent" in (await until_answers(server, "/live", 503))["reasons"][0]
        store.answers.set()
        await until_answers(server, "/live", 200)
        store.away = True
        await asyncio.sleep(1.5)
        assert (await asyncio.to_thread(ask, server, "/live"))[0] == 200
        assert pool.last_fetch < time.monotonic() - 1.0
        store.away = False


async def test_an_open_breaker_makes_it_unready_and_no_more(
    server: HealthServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncOmniQ(config=Cli(tmp_path).config) as oq, oq.worker_pool("async") as pool:
        server.pool = pool
        await until_answers(server, "/ready", 200)
        breaker = breaker_at(oq.task_queue.store.location, BreakerConfig())
        monkeypatch.setattr(breaker, "_state", BreakerState.OPEN)
        told = await until_answers(server, "/ready", 503)
        assert " fails: " in told["reasons"][0]
        assert ask(server, "/live")[0] == 200
        monkeypatch.undo()


@pytest.mark.starvable
@pytest.mark.parametrize("crashes", [0, 1])
async def test_a_full_worker_and_one_that_seldom_looks_are_on_time(crashes: int, log: Path, gate: Path) -> None:
    config = {"max_workers": 1, "poll_interval": 60.0, "max_crashes": 2}
    async with front_door(reference_place()) as oq:
        await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)])
        for _ in range(crashes):  # then it runs alone
            await crash(oq)
        async with working(oq, "async", **config) as pool:
            await until(lambda: len(lines(log)) == 1)
            await asyncio.sleep(1.3)  # longer than it takes to look again whether there is room
            assert pool.overdue < 0.2
            gate.touch()
            await until(lambda: not pool.in_flight.held)
            await asyncio.sleep(0.3)
            assert pool.overdue == 0.0


async def crash(oq: AsyncOmniQ) -> None:
    """Let the task be charged a crash, as if its worker had died."""
    store = oq.task_queue.store
    (record,) = await store.claim(["default"], limit=1, lease=30.0, worker="dead")
    state, running = TaskState.PENDING, (TaskState.RUNNING,)
    change = Change(task_id=record.id, to=state, from_states=running, epoch=record.epoch, worker="dead", crashed=True)
    await store.transition([change])


# ── the port ─────────────────────────────────────────────────────────────────


def test_nothing_is_answered_but_what_is_known(server: HealthServer) -> None:
    assert ask(server, "/live?verbose=1")[0] == 200
    assert ask(server, "/elsewhere")[0] == 404
    assert ask(server, "/live", "POST")[0] == 405
    assert ask(server, "/live", "HEAD") == (200, {})
    assert exchange(server, b"\x16\x03\x01\x02\x00\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert exchange(server, b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n") == b""


def test_who_says_nothing_is_hung_up_on(server: HealthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PATIENCE", 0.3)
    with silent(server) as client:
        client.sendall(b"GET /li")
        assert client.recv(1) == b""


async def test_who_comes_when_too_many_are_there_is_hung_up_on(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PATIENCE", 60.0)
    monkeypatch.setattr(health, "MAX_CLIENTS", 3)
    with ExitStack() as clients:
        for _ in range(3):
            clients.enter_context(silent(server))
        await until(lambda: len(server._clients) == 3)
        with silent(server) as late:
            assert late.recv(1) == b""
    await until(lambda: not server._clients)
    assert ask(server, "/live")[0] == 200


def silent(server: HealthServer) -> socket.socket:
    """A client that says nothing by itself."""
    return socket.create_connection(("127.0.0.1", port_of(server)), timeout=10.0)


async def test_a_port_that_is_taken_is_one_line_and_nothing_starts(server: HealthServer, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/omniq.db"
    with WorkerProcess(url, "--health-port", str(port_of(server)), directory=tmp_path) as worker:
        assert worker.ends() == 1
    complaint = f"error: --health-port: can't listen on 127.0.0.1 port {port_of(server)}: Address already in use"
    assert worker.said == [complaint]
    assert not (tmp_path / "omniq.db").exists()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "256.1.1.1", "x" * 300, ""])
def test_a_host_that_is_none(host: str) -> None:
    if host == "":  # any address of this machine
        with HealthServer.at(host, 0) as server:
            assert ask(server, "/live")[0] == 200
    else:
        with pytest.raises(Failure, match=r"^--health-port: can't listen on "):
            HealthServer.at(host, 0)


def test_it_listens_on_ipv6_too() -> None:
    try:
        server = HealthServer.at("::1", 0)
    except Failure:
        pytest.skip("there is no IPv6 here")
    with server:
        assert server.url.startswith("http://[::1]:")


# ── the command ──────────────────────────────────────────────────────────────


async def test_a_container_asks_for_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/omniq.db"
    with WorkerProcess(url, "--health-port", "0", directory=tmp_path) as worker:
        port = worker.greets().rpartition(":")[2]
        assert (await asyncio.to_thread(run_cli, "health", "--port", port)).output == "live\n"
        answer = await asyncio.to_thread(run_cli, "health", "--port", port, "--ready", "--json")
        assert json.loads(answer.output) == {"ok": True, "ready": True}
        deadline = time.monotonic() + 20.0
        while (answer := await asyncio.to_thread(run_cli, "--url", url, "health")).exit_code != 0:
            assert time.monotonic() < deadline  # its first sign of life comes a moment after it has begun
        assert " was seen " in answer.output
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    for arguments in (["health", "--port", port], ["--url", url, "health"]):
        answer = await asyncio.to_thread(run_cli, *arguments)
        assert answer.exit_code == 1
    assert answer.output == f"not well: no living worker of the host {socket.gethostname()}\n"


def test_what_is_not_ready_says_why(server: HealthServer) -> None:
    answer = run_cli("health", "--port", str(port_of(server)), "--ready")
    assert (answer.exit_code, answer.output) == (1, "not well: it is starting\n")


def test_only_the_worker_itself_knows_whether_it_is_ready() -> None:
    answer = run_cli("health", "--ready")
    assert answer.exit_code == 2
    assert "--ready needs --port" in answer.output


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\n\r\n<html>", b"HTTP/1.1 200 OK\r\n\r\n[1]", b"SSH-2.0\r\n", b""])
def test_what_is_no_worker_is_not_well(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            client, _ = other.accept()
            with client:
                client.recv(1000)
                client.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        asked = run_cli("health", "--port", str(other.getsockname()[1]))
        thread.join()
    assert asked.exit_code == 1
    assert "is no worker of OmniQ's" in asked.output


async def test_what_a_task_leaves_behind_does_not_keep_the_port(tmp_path: Path, log: Path) -> None:
    url = f"sqlite:///{tmp_path}/omniq.db"
    async with front_door(sqlite_place(tmp_path)) as oq:
        forking = await oq.enqueue(cli_tasks.fork_and_stay, [str(log)])
        with WorkerProcess(url, "--type", "thread", "--health-port", "0", directory=tmp_path) as worker:
            port = int(worker.greets().rpartition(":")[2])
            await until(lambda: len(lines(log)) == 1)
            await until_states(oq, [forking], *(state for state in TaskState if state.is_terminal))
            worker.signal(signal.SIGTERM)
            assert await asyncio.to_thread(worker._process.wait, 20.0) == 0
            os.kill(int(lines(log)[0]), 0)  # it is there
            with HealthServer.at("127.0.0.1", port) as server:
                assert ask(server, "/live")[0] == 200
            os.kill(int(lines(log)[0]), signal.SIGKILL)
