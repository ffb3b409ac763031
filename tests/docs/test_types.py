"""Type checkers see exact types: `typed.py` says which, and mypy and pyright agree."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TYPED = Path(__file__).with_name("typed.py")


@pytest.mark.parametrize(
    "checker",
    [["mypy", "--strict", "--config-file", "pyproject.toml"], ["pyright", "--pythonpath", sys.executable]],
    ids=["mypy", "pyright"],
)
def test_public_names_have_exact_types(checker: list[str]) -> None:
    if find_spec(checker[0]) is None:
        pytest.skip(f"needs {checker[0]}, which isn't installed")
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    command = [sys.executable, "-m", *checker, str(TYPED)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
