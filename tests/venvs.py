"""Virtual environments in which nothing is installed but what is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = os.environ.get("UV") or shutil.which("uv")
"""It is faster; without it, `venv` and `pip` do the same."""


def fresh_venv(at: Path, *requirements: str) -> Path:
    """Make one with pip and what is required, from this tree or an index; returns where its programs are."""
    venv = [UV, "venv", "--quiet", "--seed", "--python", sys.executable] if UV else [sys.executable, "-m", "venv"]
    run(ROOT, *venv, at)
    install_into(at / "bin", *requirements)
    return at / "bin"


def install_into(programs: Path, *requirements: str) -> None:
    """Install something into one that was made."""
    python = programs / "python"
    pip: list[str | Path] = [UV, "pip", "install", "--python", python] if UV else [python, "-m", "pip", "install"]
    run(ROOT, *pip, "--quiet", *requirements)


def run(cwd: Path, *command: str | Path) -> str:
    """What a command prints that has to succeed. It gets no OMNIQ_ variable, and no path of this environment's."""
    without = ("OMNIQ_", "PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(without)}
    ran = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
