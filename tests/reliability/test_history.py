"""The history that all judgements rest on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from tests.reliability import history
from tests.reliability.history import History


def test_events_come_back_as_written(tmp_path: Path) -> None:
    log = History(tmp_path / "log", worker="w")
    log.enqueued("t", ["p"])
    log.claim("t", 1, asked_at=5.0)
    log.beat("t", 1, asked_at=6.0)
    log.start("t", 1)
    log.done("t", 1, "v")
    log.settled("t", 1, "success", accepted=True)
    log.kill("w", 7)
    log.close()
    events = history.read(tmp_path / "log")
    assert [e.kind for e in events] == ["enq_ok", "claim", "beat", "start", "done", "settled_ok", "kill"]
    assert (events[0].parents, events[1].time, events[4].value, events[3].pid) == (("p",), 5.0, "v", os.getpid())
    assert {e.worker for e in events[1:]} == {"w"}


def test_what_becomes_of_processes_comes_back_as_written(tmp_path: Path) -> None:
    log = History(tmp_path / "log")
    log.spawn("w", 7)
    log.server_down()
    log.exit("w", 7, 75)
    log.server_up()
    log.close()
    events = history.read(tmp_path / "log")
    assert [(e.kind, e.worker, e.pid, e.value) for e in events] == [
        ("spawn", "w", 7, ""),
        ("server_down", "", 0, ""),
        ("exit", "w", 7, "75"),
        ("server_up", "", 0, ""),
    ]


def test_lines_of_many_writers_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    code = (
        "import sys, pathlib; from tests.reliability.history import History; "
        "from tests.reliability.test_history import write_many; write_many(History(pathlib.Path(sys.argv[1])))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=_root()) for _ in range(3)]
    log = History(path)
    threads = [threading.Thread(target=write_many, args=(log,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(history.read(path)) == 2500
    log.close()


def test_a_damaged_line_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"kind":"start"')
    with pytest.raises(msgspec.DecodeError):
        history.read(tmp_path / "log")


def write_many(log: History) -> None:
    """Write 500 lines of some 350 bytes."""
    for epoch in range(500):
        log.start("t" * 300, epoch)


def _root() -> Path:
    return Path(__file__).parents[2]
