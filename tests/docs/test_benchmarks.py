"""The comparison leaves out whom it can't measure, says why, and measures the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import exit_without_server

ROOT = Path(__file__).parents[2]
PEERS = {"sqlite": ["huey"], "postgres": ["pgqueuer", "awa"], "redis": ["ardiq"], "nats": ["taskiq-nats"]}
NO_PYTHON = '#!/bin/sh\ncase "$1" in venv) echo "error: No interpreter found for Python >=3.12" >&2; exit 2;; esac\n'
NO_PACKAGE = """#!/bin/sh
case "$1" in
venv) for home; do :; done; mkdir -p "$home/bin"; ln -s /bin/true "$home/bin/python" ;;
pip) echo "error: No solution found" >&2; exit 1 ;;
esac
"""
ABSENT = {"no Python": NO_PYTHON, "no package": NO_PACKAGE}


def compare(store: str, folder: Path, *only: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One short round, with temporary files in the folder."""
    command = [sys.executable, "benchmarks/compare.py", store, "--rounds", "1", "--tasks", "50"]
    names = ["--only", *only] if only else []
    env = {**os.environ, "TMPDIR": str(folder), **environment}
    return subprocess.run([*command, *names], cwd=ROOT, env=env, capture_output=True, text=True, timeout=100)


def left_out(ran: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Who was left out, and why."""
    return dict(re.findall(r"^ +(\S+) +left out: (.*)$", ran.stdout, re.MULTILINE))


@pytest.mark.parametrize("absent", ABSENT)
def test_a_peer_that_cannot_be_installed_is_left_out_with_its_reason(tmp_path: Path, absent: str) -> None:
    uv = tmp_path / "uv"
    uv.write_text(ABSENT[absent])
    uv.chmod(0o755)
    for _ in range(1 + (absent == "no package")):  # a half-made environment isn't taken for one that is ready
        ran = compare("sqlite", tmp_path, "omniq", "huey", UV=str(uv))
        assert ran.returncode == 0, ran.stderr
        assert "round 1  omniq " in ran.stdout
        assert left_out(ran).keys() == {"huey"}
        assert re.match(r"needs (Python 3\.11|huey): ", left_out(ran)["huey"]), ran.stdout


@pytest.mark.parametrize("store", PEERS)
def test_every_peer_of_a_store_can_be_left_out(tmp_path: Path, store: str) -> None:
    ran = compare(store, tmp_path, "omniq", *PEERS[store], UV=str(tmp_path / "no-uv"))
    if ran.stderr.startswith("left out: needs"):
        pytest.skip(ran.stderr.strip())
    assert ran.returncode == 0, ran.stderr
    assert "round 1  omniq " in ran.stdout
    assert left_out(ran).keys() == set(PEERS[store])


def test_a_store_whose_server_is_missing_is_left_out_with_its_reason(tmp_path: Path) -> None:
    ran = compare("postgres", tmp_path, OMNIQ_TEST_POSTGRES_URL="", OMNIQ_TEST_POSTGRES_BIN=str(tmp_path))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"left out: OMNIQ_TEST_POSTGRES_BIN: there is no PostgreSQL in {tmp_path}\n"


def test_a_server_that_is_not_installed_ends_a_command_with_the_reason() -> None:
    with pytest.raises(SystemExit, match="left out: needs a server"), exit_without_server():
        pytest.skip("needs a server")


def test_one_that_fails_is_left_out_and_the_command_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "uvloop.py"
    broken.write_text("raise ImportError('no uvloop here')")
    ran = compare("sqlite", tmp_path, "omniq", "probe", PYTHONPATH=str(tmp_path))
    assert (ran.returncode, ran.stderr) == (1, "without figures: probe\n")
    assert "no uvloop here" in left_out(ran)["probe"]
    assert "round 1  omniq " in ran.stdout
