"""A full disk: what can't be written is refused, what was acknowledged is there, and work goes on after that."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import operator, sys
from pathlib import Path
from omniq import OmniQ
from omniq.errors import StoreFull

ballast = Path("small/ballast")
ballast.write_bytes(bytes(200_000))
with OmniQ(config={"task_queue": {"type": "file", "config": {"base_dir": "small"}}}) as oq:
    ids = []
    try:
        while True:
            ids.append(oq.enqueue(operator.add, [len(ids), 1]))
    except StoreFull as error:
        print(error)
    print(len(list(Path("small/default/tmp").iterdir())), "left")
    ballast.unlink()
    oq.start_worker()
    print([oq.get_result(id_, timeout=60) for id_ in ids] == list(range(1, len(ids) + 1)), len(ids) > 9)
"""
ON_A_SMALL_DISK = 'mount -t tmpfs -o size=600k tmpfs small && exec "$@"'


def on_a_small_disk(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run it where `small` is a disk of 600 KB, which nobody else sees and which goes with it."""
    (folder / "small").mkdir(exist_ok=True)
    apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh"]
    return subprocess.run([*apart, *command], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture(autouse=True)
def small_disks(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or on_a_small_disk(tmp_path, "true").returncode:
        pytest.skip("needs a disk of its own: unshare can't mount one here")


def test_nothing_that_was_acknowledged_is_lost(tmp_path: Path) -> None:
    ran = on_a_small_disk(tmp_path, sys.executable, "-c", PROGRAM)
    assert ran.returncode == 0, ran.stderr
    location = f"file:{tmp_path}/small/default"
    assert ran.stdout == f"{location}: No space left on device\n0 left\nTrue True\n"
