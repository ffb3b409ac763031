"""Whether a worker is alive and ready: told over HTTP by its process, and asked for by `omniq health`."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import click

from omniq.cli.app import FAILED, Failure
from omniq.cli.options import Place, example, json_option, placed

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter, Task

    from omniq.core import AsyncOmniQ
    from omniq.storage.records import WorkerRecord
    from omniq.sync import Portal
    from omniq.workers.pool import AsyncWorkerPool

# ── how a worker is ─────────────────────────────────────────────────────────


LEASES: Final = 4
"""A worker isn't live whose next look for tasks is late by so many leases: long after a task that blocks its loop and
keeps its lease has been given up by whoever waits for it."""
AT_LEAST: Final = 10.0
"""Seconds by which it is late at least then: a busy machine is no reason to restart it."""


class Health(NamedTuple):
    """How a worker is just now; what is wrong is told in lines."""

    dead: list[str]
    """Why it isn't live: it does nothing any more, and restarting it would help."""
    unready: list[str]
    """Why it isn't ready: it takes no tasks just now, or can't settle them."""
    facts: dict[str, object]

    def answer(self, path: str) -> tuple[int, dict[str, object]]:
        """The status and body of the answer to a request for that path."""
        live, ready = {"live": not self.dead}, {"ready": not (self.dead or self.unready)}
        match path:
            case "/live":
                return _answer(self.dead, live)
            case "/ready":
                return _answer([*self.dead, *self.unready], ready)
            case "/":
                return _answer([*self.dead, *self.unready], {**live, **ready, **self.facts})
        return 404, {"error": "there are only /, /live and /ready"}


def _answer(reasons: list[str], data: dict[str, Any]) -> tuple[int, dict[str, object]]:
    return (503, {**data, "reasons": reasons}) if reasons else (200, data)


def health_of(pool: AsyncWorkerPool | None) -> Health:
    """How a worker is; None stands for one that is about to start. From any thread."""
    if pool is None:
        return Health([], ["it is starting"], {})
    record = pool.report()
    dead, unready = [], []
    if pool.failure is not None:
        dead.append(f"it can't go on: {pool.failure}")
    elif pool.stopping:
        unready.append("it is stopping")
    elif (late := pool.overdue) > max(LEASES * record.lease, AT_LEAST):
        dead.append(f"it hasn't looked for tasks for {late:.0f} s: its event loop stands still, or its store is silent")
    elif pool.slots == 0:
        unready.append("it has no slot that could run a task")
    for breaker in record.breakers:
        if breaker.state != "closed":
            unready.append(f"{breaker.location} fails: {breaker.error}")
    return Health(dead, unready, _facts(pool, record))


def _facts(pool: AsyncWorkerPool, record: WorkerRecord) -> dict[str, object]:
    now = time.monotonic()
    return {
        "worker": record.name,
        "kind": record.kind,
        "queues": record.queues,
        "slots": record.slots,
        "held": record.running,
        "waiting": pool.in_flight.buffered,
        "ended": {status.value: number for status, number in dict(pool.ended).items()},
        "uptime": round(time.time() - record.started_at, 1),
        "since_fetch": round(now - pool.last_fetch, 1),
        "breakers": {breaker.location: breaker.state.value for breaker in record.breakers},
    }


# ── telling ─────────────────────────────────────────────────────────────────


PATIENCE: Final = 2.0
"""Seconds that a client has for its whole request, and for taking the answer."""
MAX_REQUEST: Final = 8192
"""Bytes of a request."""
MAX_CLIENTS: Final = 32
"""Clients that are served at once; what is more is hung up on."""
PHRASES: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class HealthServer:
    """Answers GET and HEAD of `/live`, `/ready` and `/` on a thread and an event loop of its own.

    So it answers whatever the worker's loop does, and tells that it stands still if it does.
    """

    def __init__(self, listening: socket.socket) -> None:
        self.pool: AsyncWorkerPool | None = None
        """The worker; None until there is one."""
        self._listening = listening
        self._clients: set[Task[None] | None] = set()
        self._portal: Portal | None = None

    @classmethod
    def at(cls, host: str, port: int) -> Self:
        """One that listens there, and answers once it is entered. Raises `Failure` if it can't."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            return cls(socket.create_server((host, port), family=family))
        except (OSError, OverflowError, UnicodeError) as error:
            # asyncio's and socket's own words come behind those of the system.
            reason = str(error.strerror).partition(" (")[0] if isinstance(error, OSError) else error
            raise Failure(f"--health-port: can't listen on {host} port {port}: {reason}") from error

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._listening.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def __enter__(self) -> Self:
        from omniq.sync import Portal

        os.register_at_fork(after_in_child=self._leave_to_the_parent)
        self._portal = Portal("omniq-health")
        self._portal.call(self._serve())
        return self

    def __exit__(self, *exc: object) -> None:
        if self._portal is not None:
            self._portal.call(self._hang_up())
            self._portal.stop()
            self._portal = None
        self._listening.close()

    def _leave_to_the_parent(self) -> None:
        """In what a task has forked: don't keep the port, should that live on."""
        if self._portal is not None and self._listening.fileno() >= 0:
            os.close(self._listening.detach())  # whatever the event loop holds of it

    async def _serve(self) -> None:
        import asyncio

        self._server = await asyncio.start_server(self._client, sock=self._listening, limit=MAX_REQUEST)

    async def _client(self, reader: StreamReader, writer: StreamWriter) -> None:
        import asyncio

        me = asyncio.current_task()
        self._clients.add(me)
        try:
            if len(self._clients) <= MAX_CLIENTS:
                async with asyncio.timeout(PATIENCE):
                    writer.write(self._answer(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # it isn't heard any more, or has said too little or too much
        finally:
            self._clients.discard(me)
            writer.transport.abort()

    async def _hang_up(self) -> None:
        import asyncio

        self._server.close()
        clients = [client for client in self._clients if client is not None]
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    def _answer(self, request: bytes) -> bytes:
        """The answer to a request, with its head."""
        data: dict[str, object]
        words = request.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            status, data = 400, {"error": "it is no HTTP/1 request"}
        elif words[0] not in ("GET", "HEAD"):
            status, data = 405, {"error": "there are only GET and HEAD"}
        else:
            status, data = health_of(self.pool).answer(words[1].partition("?")[0])
        body = json.dumps(data).encode() + b"\n"
        lines = (
            f"HTTP/1.1 {status} {PHRASES[status]}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            *(["Allow: GET, HEAD"] if status == 405 else []),
            "Connection: close",
        )
        head = "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")
        return head if words[0] == "HEAD" else head + body


# ── asking ──────────────────────────────────────────────────────────────────


ASKING: Final = 5.0
"""Seconds that a worker may take to answer."""


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), help="The worker's --health-port; without it, the store is asked."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where that port is.")
@click.option("--ready", is_flag=True, help="Ask whether it is ready, not only whether it is live.")
@json_option
@example("omniq health", "omniq health --port 8080 --ready")
@placed
def health(place: Place, port: int | None, host: str, ready: bool, as_json: bool) -> None:
    """Tell whether a worker is well: for the health checks of containers.

    With --port the worker itself is asked, as GET /live or /ready does it. Without, the task queue's store is asked
    whether a worker of this host was seen lately, which takes longer, and can't tell whether that is ready.

    Exit codes: 0 it is; 1 it isn't, or can't be asked.
    """
    if port is not None:
        well, data = _ask_worker(host, port, "/ready" if ready else "/live")
    elif ready:
        raise click.UsageError("--ready needs --port: only the worker itself knows whether it is ready.")
    else:
        well, data = _ask_store(place)
    if as_json:
        click.echo(json.dumps({"ok": well, **data}))
    else:
        click.echo(_line(well, data))
    click.get_current_context().exit(0 if well else FAILED)


def _ask_worker(host: str, port: int, path: str) -> tuple[bool, dict[str, Any]]:
    """Whether the worker answers that it is well, and what it says. Raises `Failure` where none answers."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    try:
        with socket.create_connection((host, port), timeout=ASKING) as asking:
            asking.sendall(request)
            with asking.makefile("rb") as answer:
                head, _, body = answer.read(1_000_000).partition(b"\r\n\r\n")
        status, data = int(head.split(b" ", 2)[1]), json.loads(body)
        return status == 200 and path[1:] in data, dict(data)
    except (OSError, OverflowError, UnicodeError) as error:
        raise Failure(f"no worker answers on {host} port {port}: {error}") from error
    except (ValueError, IndexError, TypeError) as error:
        raise Failure(f"what answers on {host} port {port} is no worker of OmniQ's") from error


def _ask_store(place: Place) -> tuple[bool, dict[str, Any]]:
    """Whether a worker of this host was seen lately. Raises `OmniQError` if the store can't be asked."""

    async def ask(oq: AsyncOmniQ) -> tuple[float, list[WorkerRecord]]:
        store = oq.task_queue.store
        return await store.now(), await store.workers()

    now, workers = place.run(ask)
    mine = [worker for worker in workers if worker.host == socket.gethostname()]
    alive = {worker.name: round(max(0.0, now - worker.last_seen), 1) for worker in mine if worker.is_alive(now)}
    reasons = [] if alive else [f"no living worker of the host {socket.gethostname()}"]
    return bool(alive), {"live": bool(alive), "seen_ago": alive, **({"reasons": reasons} if reasons else {})}


def _line(well: bool, data: dict[str, Any]) -> str:
    from omniq.texts import escaped

    if not well:
        return "not well: " + escaped("; ".join(map(str, data.get("reasons") or ["it doesn't say why"])))
    seen = [f"{escaped(name)} was seen {ago} s ago" for name, ago in data.get("seen_ago", {}).items()]
    return "; ".join(seen) or "ready" * bool(data.get("ready")) or "live"
