"""`omniq plugins verify`: what it finds, how it ends, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omniq.testing.verify import tidy

ROOT = Path(__file__).parents[2]
VERIFY = [sys.executable, "-P", "-m", "omniq", "plugins", "verify"]
LONG = pytest.mark.timeout(400)


def verify(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) if path is None else {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(
        [*VERIFY, *arguments], capture_output=True, text=True, env=environment, check=False, timeout=390
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["sqlight", "--url", "sqlite:///x.db"], 3, "there is no plugin 'sqlight', did you mean 'sqlite'?"),
        (["sqlite", "--url", "x.db"], 2, "expected a URL"),
        (["sqlite", "--url", "sqlight:///x.db"], 2, "unknown backend 'sqlight'"),
        (["postgres", "--url", "sqlite:///x.db"], 2, "is a URL for 'sqlite', not for 'postgres'"),
        (["file", "--url", "memory://x"], 2, "is a URL for 'memory', not for 'file'"),
        (["redis", "--url", "redis://:secret@127.0.0.1:1"], 1, "redis:127.0.0.1:1"),
    ],
)
def test_what_cannot_be_verified_is_one_line(arguments: list[str], code: int, words: str) -> None:
    done = verify(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "secret" not in done.stderr


def test_without_pytest_it_says_what_to_install(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['pytest'] = None; from omniq.cli import main; main()"
    command = [sys.executable, "-c", hidden, "plugins", "verify", "sqlite", "--url", f"sqlite:///{tmp_path}/queue.db"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'error: plugins verify needs pytest: pip install "omniq-core[testing]"\n'
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", ["0", "nan", "inf"])
def test_the_kill_test_takes_a_number_of_seconds(seconds: str, tmp_path: Path) -> None:
    done = verify("sqlite", "--url", f"sqlite:///{tmp_path}/queue.db", "--seconds", seconds)
    assert done.returncode == 2
    assert "Invalid value for '--seconds'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_dropped_is_named(tmp_path: Path) -> None:
    journal = tmp_path / "projects"
    journal.write_text("+test-gone\n+test-left\n-test-gone\n")
    left = tidy("redis://:secret@127.0.0.1:1", journal, lambda _: None)
    assert [line.partition(": redis:")[0] for line in left] == ["test-left is left behind: StoreUnavailable"]
    assert "secret" not in left[0]


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory and settings that are about something else."""
    directory = tmp_path_factory.mktemp("elsewhere")
    for name in ("conftest.py", "random.py", "test_store.py"):
        (directory / name).write_text("raise RuntimeError('imported from the working directory')\n")
    (directory / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    monkeypatch.chdir(directory)
    for setting, value in {"QUEUES": "high,low", "TASK_TIMEOUT": "0.001", "CONFIG": "no-such.yaml"}.items():
        monkeypatch.setenv(f"OMNIQ_{setting}", value)
    return directory


@LONG
@pytest.mark.slow
def test_a_store_without_an_epoch_check_is_found_out(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all of the example that has nothing to do with epochs is sound."""
    pytest.importorskip("lmdb", reason="needs lmdb for examples/omniq-lmdb")
    packages, place = tmp_path / "packages", tmp_path / "place"
    place.mkdir()
    install_patched(packages)
    before = sorted(elsewhere.iterdir())
    monkeypatch.setenv("OMNIQ_TEST_WALKS", "30")  # to look for the shortest walk that fails would take minutes
    done = verify("lmdb", "--url", f"lmdb:///{place}", "--no-kill", "--json", path=packages)
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads(done.stdout)
    failed = {finding["requirement"] for finding in report["failed"]}
    assert "queue.transition.a_late_worker_is_refused" in failed
    assert {name.split(".")[1] for name in failed} <= {"transition", "atomic", "lease", "walk"}
    assert len(report["passed"]) > 350
    assert list(place.iterdir()) == []
    assert sorted(elsewhere.iterdir()) == before


def install_patched(packages: Path) -> None:
    """The example as if it were installed, without the check of the epoch."""
    example = ROOT / "examples" / "omniq-lmdb" / "src" / "omniq_lmdb"
    shutil.copytree(example, packages / "omniq_lmdb", ignore=shutil.ignore_patterns("__pycache__"))
    with (packages / "omniq_lmdb" / "stores.py").open("a") as stores:
        stores.write(
            "\n\nfrom msgspec.structs import replace\n\n"
            "_transition = LMDBTasks.transition\n"
            "def forget(changes):\n    return [replace(change, epoch=None) for change in changes]\n\n"
            "LMDBTasks.transition = lambda self, changes: _transition(self, forget(changes))\n"
        )
    metadata = packages / "omniq_lmdb-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: omniq-lmdb\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[omniq.plugins]\nlmdb = omniq_lmdb.plugin\n")


@LONG
@pytest.mark.slow
@pytest.mark.parametrize("interruption", [signal.SIGINT, signal.SIGTERM])
def test_after_an_interruption_nothing_is_left(interruption: signal.Signals, tmp_path: Path) -> None:
    command = [*VERIFY, "sqlite", "--url", f"sqlite:///{tmp_path}/queue.db"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.0)  # into the midst of the tests
    os.killpg(process.pid, interruption)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert list(tmp_path.iterdir()) == []
