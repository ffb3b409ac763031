"""The suite in a stranger's project: without any configuration of pytest, with a report, and with nothing left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
from omniq.testing.conformance import requirements
from omniq.testing.conformance.base import Finding, Report

STORE = """
import pytest
from omniq.testing import ReferenceEventStore, ReferenceQueueStore, ReferenceResultStore
from omniq.testing.conformance import BackendConformance

STORES = {"task_queue": ReferenceQueueStore, "result_store": ReferenceResultStore, "event_store": ReferenceEventStore}
"""
OPENER = """
    @pytest.fixture
    def opener(self):
        return lambda kind, project: STORES[kind](project)
"""


def run(folder: Path, text: str, *arguments: str) -> tuple[int, str]:
    """Exit code and output of pytest in a folder in which there is nothing but a test."""
    (folder / "test_store.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), "-q", *arguments]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=100)
    return done.returncode, done.stdout + done.stderr


def test_a_url_is_all_that_it_takes(tmp_path: Path) -> None:
    text = """
import pytest
from omniq.testing.conformance import BackendConformance

class TestStore(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/queue.db"
"""
    code, output = run(tmp_path, text, "-k", "TestDrop or TestProjects")
    assert code == 0, output
    assert "OmniQ conformance" in output
    assert "  required " in output


def test_a_url_is_what_it_takes(tmp_path: Path) -> None:
    code, output = run(tmp_path, STORE + "class TestStore(BackendConformance):\n    pass\n", "-k", "TestDrop")
    assert code == 1
    assert "override the fixture `url`" in output


def test_a_failure_names_the_requirement(tmp_path: Path) -> None:
    broken = """
class Forgetful(ReferenceQueueStore):
    async def pause(self, queue_name, *, paused):
        pass

STORES["task_queue"] = Forgetful

class TestStore(BackendConformance):
"""
    code, output = run(tmp_path, STORE + broken + OPENER, "-k", "TestClaiming")
    assert code == 1
    assert "\nqueue.claim.a_paused_queue_is_passed_over\n" in output
    assert "    queue.claim.a_paused_queue_is_passed_over: " in output


CHANGES = {
    "Deletes": "    TestEvents = None",
    "Replaces": """
    class TestUpkeep(BackendConformance.TestUpkeep):
        async def test_what_has_not_ended_is_kept(self, store): pass""",
    "Skips": """
    @pytest.mark.skip
    class TestUpkeep(BackendConformance.TestUpkeep): pass""",
    "Marks": "    pytestmark = pytest.mark.skipif(True, reason='later')",
}


def test_who_changes_a_requirement_says_why(tmp_path: Path) -> None:
    stores = [f"class Test{name}(BackendConformance):\n{text}\n{OPENER}" for name, text in CHANGES.items()]
    code, output = run(tmp_path, "\n\n".join([STORE, *stores]), "-k", "no_requirement_was_changed", "-rA")
    assert code == 1
    for name in ("Deletes", "Replaces", "Skips"):
        assert f"FAILED test_store.py::Test{name}::{GUARD}" in output
    assert output.count("say why in `deviations`") >= 3
    assert "1 skipped" in output  # where all is marked, so is the guard; and the report says so


def test_a_deviation_is_reported_with_its_reason(tmp_path: Path) -> None:
    name = "queue.upkeep.what_has_not_ended_is_kept"
    text = f"""{STORE}
class TestStore(BackendConformance):
    deviations = {{"{name}": "it keeps nothing"}}
{CHANGES["Replaces"]}
{OPENER}"""
    code, output = run(tmp_path, text, "-k", "no_requirement_was_changed or what_has_not_ended_is_kept")
    assert code == 0, output
    assert f"{name}: it keeps nothing" in output


def test_a_deviation_names_something_and_has_a_reason(tmp_path: Path) -> None:
    text = f'{STORE}\nclass TestStore(BackendConformance):\n    deviations = {{"queue.none": "x"}}\n{OPENER}'
    code, output = run(tmp_path, text, "-k", "no_requirement_was_changed")
    assert code == 1
    assert "queue.none" in output


def test_the_guard_itself_stays(tmp_path: Path) -> None:
    text = f"{STORE}\nclass TestStore(BackendConformance):\n    {GUARD} = None\n"
    code, output = run(tmp_path, text)
    assert code == 2
    assert "can't be changed" in output


GUARD = "test_no_requirement_was_changed_without_a_reason"


def test_requirements_have_ids_and_levels() -> None:
    levels = {requirement.id: requirement.level for requirement in requirements()}
    assert levels["queue.transition.a_late_worker_is_refused"] == "required"
    assert levels["queue.unique.other_keys_and_none_are_free"] == "unique"
    assert levels["events.an_event_may_say_little"] == "an event store"
    assert len(levels) > 280


def test_a_report_is_text_and_data() -> None:
    report = Report(subject="shelf")
    report.note(Finding(requirement="queue.a"))
    report.note(Finding(requirement="queue.a", verdict="failed", reason="it does"))
    report.note(Finding(requirement="queue.a"))
    report.note(Finding(requirement="queue.b"))
    report.note(Finding(requirement="queue.push", level="push", verdict="not declared"))
    assert not report.ok
    assert "conformance of shelf: it fails" in str(report)
    assert "push                   not declared" in str(report)
    data = msgspec.json.decode(msgspec.json.encode(report.data()))
    assert data == json.loads(json.dumps(report.data()))
    assert [finding["requirement"] for finding in data["failed"]] == ["queue.a"]
    assert [(level["name"], level["declared"], level["total"]) for level in data["levels"]] == [
        ("required", True, 2),
        ("push", False, 0),
    ]
