"""Who takes part in a comparison, and how one is measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from goals import Figures

HERE = Path(__file__).parent
LIMIT = 300
"""Seconds that one measurement may take."""
WORDS = 300
"""Characters of a complaint that are shown."""


class LeftOut(Exception):
    """Raised when a contestant can't take part; it says why."""


@dataclass(frozen=True)
class Contestant:
    """Modules that work in one place, one after the other, and each print figures."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    """What follows `python -m`."""
    packages: tuple[str, ...] = ()
    """What a peer needs, installed in an environment of its own."""
    python: tuple[int, int] = (3, 11)
    """The oldest version of Python that will do."""

    def run(self, place: Mapping[str, str], tasks: int) -> Figures:
        """All figures of one round. `place` holds the environment variables that name an empty place.

        Raises `LeftOut`.
        """
        env = {**os.environ, **place, "BENCH_TASKS": str(tasks)}
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # where modules are compiled at every start, that would be measured
        figures: Figures = {}
        for command in self.commands:
            figures |= measure([self.interpreter(), "-m", *command], env)
        return figures

    def versions(self) -> str:
        """What a peer runs with. Raises `LeftOut`."""
        return _said("needs a Python that starts", [self.interpreter(), "-m", "versions", *self.packages]).strip()

    def interpreter(self) -> str:
        """The Python that runs it; a peer's environment is made at the first call. Raises `LeftOut`."""
        if not self.packages:
            return sys.executable
        home = Path(tempfile.gettempdir()) / f"omniq-peers-{os.getuid()}" / self.name
        interpreter = home / "bin" / "python"
        if not interpreter.exists():
            make_environment(home, self.packages, self.python)
        return str(interpreter)


def make_environment(home: Path, packages: Sequence[str], python: tuple[int, int]) -> None:
    """A virtual environment on this Python, or on one that `uv` finds where this one is too old. Raises `LeftOut`."""
    wanted = sys.executable if sys.version_info[:2] >= python else ">={}.{}".format(*python)
    uv = os.environ.get("UV", "uv")
    try:
        _said(
            "needs Python {}.{}".format(*python), [uv, "venv", "-q", "--no-python-downloads", "-p", wanted, str(home)]
        )
        _said(f"needs {' '.join(packages)}", [uv, "pip", "install", "-q", "-p", f"{home}/bin/python", *packages])
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)  # the next run would take it for complete
        raise


def _said(need: str, command: Sequence[str]) -> str:
    """What a command prints that fills a need. Raises `LeftOut` with what it complains of."""
    try:
        return subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True).stdout
    except OSError as error:
        raise LeftOut(f"{need}: {error}") from error
    except subprocess.CalledProcessError as error:
        words = " ".join(error.stderr.split())[:WORDS] or f"{command[0]} ended with {error.returncode}"
        raise LeftOut(f"{need}: {words}") from error


def measure(command: list[str], env: dict[str, str]) -> Figures:
    """The figures that a command prints. Raises `LeftOut` with its last words when it prints none."""
    try:
        done = subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired as error:
        raise LeftOut(f"{' '.join(command[1:])} took more than {LIMIT} s") from error
    for line in done.stdout.splitlines():
        if line.startswith('{"figures"'):
            figures: Figures = json.loads(line)["figures"]
            return figures
    last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing"]
    raise LeftOut(f"{' '.join(command[1:])} ended with {done.returncode}, no figures and the words: {last[0]}")
