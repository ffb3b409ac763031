"""Who takes part in a comparison, and how one is measured."""

from __future__ import annotations

import json
import os
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
        """All figures of one round. `place` holds the environment variables that name an empty place."""
        env = {**os.environ, **place, "BENCH_TASKS": str(tasks)}
        figures: Figures = {}
        for command in self.commands:
            figures |= measure([self.interpreter(), "-m", *command], env)
        return figures

    def versions(self) -> str:
        """What a peer runs with."""
        command = [self.interpreter(), "-m", "versions", *self.packages]
        return subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True).stdout.strip()

    def interpreter(self) -> str:
        """The Python that runs it; a peer's environment is made at the first call."""
        if not self.packages:
            return sys.executable
        home = Path(tempfile.gettempdir()) / "omniq-peers" / self.name
        interpreter = home / "bin" / "python"
        if not interpreter.exists():
            make_environment(home, self.packages, self.python)
        return str(interpreter)


def make_environment(home: Path, packages: Sequence[str], python: tuple[int, int]) -> None:
    """A virtual environment on this Python, or on one that `uv` finds where this one is too old."""
    wanted = sys.executable if sys.version_info[:2] >= python else ">={}.{}".format(*python)
    subprocess.run(["uv", "venv", "-q", "-p", wanted, str(home)], check=True)
    subprocess.run(["uv", "pip", "install", "-q", "-p", str(home / "bin" / "python"), *packages], check=True)


def measure(command: list[str], env: dict[str, str]) -> Figures:
    """The figures that a command prints. Raises `RuntimeError` with its output when it prints none."""
    done = subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True, timeout=LIMIT)
    for line in done.stdout.splitlines():
        if line.startswith('{"figures"'):
            figures: Figures = json.loads(line)["figures"]
            return figures
    raise RuntimeError(f"{' '.join(command)} printed no figures:\n{done.stdout[-500:]}{done.stderr[-2000:]}")
