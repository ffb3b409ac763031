"""Programs that don't want to be root: who runs them where the tests run as root, in which folders, from which files.

Nothing is expected of the checkout, of its environment or of the system's temporary folder: all of them may be root's
alone. Whoever isn't root runs everything as himself, from where it is.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

USER = "nobody"
"""Runs the programs where the tests run as root."""
PUBLIC_FOLDERS = ("/tmp", "/var/tmp")
"""Where to put files that others must reach, if they don't reach the system's temporary folder."""
EVERYONE = 0o005
"""The permission of everyone to read and to enter, or to execute."""


def popen(command: Sequence[str], log: IO[bytes], folder: Path) -> subprocess.Popen[bytes]:
    """Start a program in a folder, with nothing of this process's environment that would lead it elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    identity = pwd.getpwnam(USER) if _is_root() else None
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=folder,
        env={**kept, "HOME": str(folder)},
        user=identity.pw_uid if identity else None,
        group=identity.pw_gid if identity else None,
        extra_groups=[] if identity else None,
    )


def new_folder(prefix: str) -> Path:
    """A new folder that the programs reach."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_parent_of_folders()))
    folder.chmod(0o755)
    return folder


def hand_over(path: Path) -> None:
    """Let a file or a folder be the programs' own."""
    if _is_root():
        shutil.chown(path, USER)


def reachable(program: Path, *parts: Path) -> Path:
    """A program that can be executed: this one, or its copy. `parts` are the folders that it can't do without.

    Copies keep their places relative to each other, by which programs find their libraries and data.
    """
    if not _is_root() or _is_open(program):
        return program
    top = Path(os.path.commonpath([part.parent for part in parts]))
    return _copy(parts, top) / program.relative_to(top)


@functools.cache
def _copy(parts: Sequence[Path], top: Path) -> Path:
    """Copies of these folders, which all may read; they last as long as this process."""
    copies = new_folder("omniq-programs-")
    atexit.register(shutil.rmtree, copies)
    for part in parts:
        shutil.copytree(part, copies / part.relative_to(top))
    for path in copies.rglob("*"):
        path.chmod(path.stat().st_mode | (EVERYONE if path.is_dir() or os.access(path, os.X_OK) else 0o004))
    return copies


def _parent_of_folders() -> str:
    for folder in (tempfile.gettempdir(), *PUBLIC_FOLDERS):
        if not _is_root() or _is_open(Path(folder)):
            return folder
    pytest.skip(f"needs a folder that {USER} may enter: PostgreSQL refuses to be run by root")


def _is_open(path: Path) -> bool:
    """Whether everyone may read and execute, or enter, what is there."""
    real = path.resolve()
    return all(step.stat().st_mode & EVERYONE == EVERYONE for step in (real, *real.parents))


def _is_root() -> bool:
    return os.geteuid() == 0
