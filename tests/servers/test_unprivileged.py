"""PostgreSQL runs for tests wherever checkout, environment and temporary folder are, whoever may read them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.servers import unprivileged
from tests.servers.postgres import PROGRAMS_VARIABLE, URL_VARIABLE, WHEEL

ROOT = Path(__file__).parents[2]
START_AND_ASK = """
import asyncio, os, sys
os.umask(int(sys.argv[1], 8))
import asyncpg
from tests.servers.postgres import PostgresServer

async def ask(url):
    connection = await asyncpg.connect(url, ssl=False)
    # Languages and time zones are files of the installation too.
    await connection.execute("do 'begin perform to_tsvector(''english'', ''owls''); end'")
    print(await connection.fetchval("select now() at time zone 'Europe/Berlin' is not null"))
    await connection.close()

server = PostgresServer()
server.create()
server.start()
asyncio.run(ask(server.url))
server.remove()
"""


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Path]:
    """A folder that its owner alone may enter, with a long path."""
    folder = tmp_path / ("private" * 12)
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


def copied_wheel(folder: Path) -> Path:
    """The server's wheel, as it would be in an environment in that folder."""
    spec = find_spec(WHEEL)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs {WHEEL.replace('_', '-')}, which isn't installed")
    package = Path(spec.origin).parent
    ignored = shutil.ignore_patterns("pginstall", "include")
    for part in (package, *package.parent.glob(f"{WHEEL}.libs")):
        shutil.copytree(part, folder / part.name, ignore=ignored)
    return folder


@pytest.mark.parametrize("umask", ["022", "077"])
def test_a_server_runs_from_a_private_folder_with_a_private_temporary_folder(private: Path, umask: str) -> None:
    site, temporary = private / "site", private / "tmp"
    site.mkdir(mode=0o700)
    temporary.mkdir(mode=0o700)
    path = os.pathsep.join([str(copied_wheel(site)), str(ROOT)])
    kept = {name: value for name, value in os.environ.items() if name not in (URL_VARIABLE, PROGRAMS_VARIABLE)}
    env = {**kept, "PYTHONPATH": path, "TMPDIR": str(temporary), "PGSSLMODE": "verify-full", "PGHOST": "elsewhere"}
    command = [sys.executable, "-c", START_AND_ASK, umask]
    ran = subprocess.run(command, cwd=private, env=env, capture_output=True, text=True, timeout=100)
    assert (ran.returncode, ran.stdout) == (0, "True\n"), ran.stderr
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as somebody else")
class TestAsRoot:
    def test_what_everyone_may_execute_is_run_from_where_it_is(self) -> None:
        program = Path("/bin/sh")
        assert unprivileged.reachable(program, program.parent) == program

    def test_what_only_root_may_reach_is_copied_with_its_neighbours(self, private: Path) -> None:
        for name in ("bin", "lib"):
            (private / name).mkdir()
        program = private / "bin" / "server"
        program.write_text("#!/bin/sh\ncat ../lib/text; id -un\n")
        program.chmod(0o700)
        (private / "lib" / "text").write_text("a library of ")
        (private / "lib" / "text").chmod(0o600)
        copy = unprivileged.reachable(program, private / "bin", private / "lib")
        with open(private / "log", "w+b") as log:
            assert unprivileged.popen([str(copy)], log, copy.parent).wait() == 0
        assert (private / "log").read_text() == f"a library of {unprivileged.USER}\n"

    def test_without_a_folder_that_others_may_enter_the_reason_is_told(
        self, private: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(private))
        monkeypatch.setattr(unprivileged, "PUBLIC_FOLDERS", ())
        with pytest.raises(pytest.skip.Exception, match="needs a folder that nobody may enter"):
            unprivileged.new_folder("x")
