"""Plugins on the command line: listing and checking them, and the commands that they add.

Each test installs its plugins in a directory of their own, and runs the command as a process that finds them there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.plugin_sites import HEAD, install, omniq

ZAP = f"""{HEAD}
    def omniq_commands():
        return [CommandSpec("zap", "acme_zap.commands:zap", help="Zap them all.")]
"""


def test_installed_plugins_are_listed(tmp_path: Path) -> None:
    install(tmp_path, "bad", "import nowhere")
    listed = omniq(tmp_path, "plugins", "list")
    assert listed.returncode == 0
    head, *rows = (line.split() for line in listed.stdout.splitlines())
    assert head == ["NAME", "DISTRIBUTION", "VERSION", "STATUS", "PROVIDES", "ERROR"]
    by_name = {row[0]: row for row in rows}
    assert by_name["builtin"][4:6] == ["worker", "async,"]
    assert by_name["bad"][1:5] == ["acme-bad", "1.2", "broken", "-"]
    told = {plugin["name"]: plugin for plugin in json.loads(omniq(tmp_path, "plugins", "list", "--json").stdout)}
    assert told["sqlite"]["status"] == "active"
    assert {spec["kind"] for spec in told["sqlite"]["provides"]} == {"task_queue", "result_store", "event_store"}
    assert told["bad"]["error"] == "ModuleNotFoundError: No module named 'nowhere'"


def test_one_plugin_is_shown(tmp_path: Path) -> None:
    shown = omniq(tmp_path, "plugins", "show", "sqlite")
    assert "task queue    sqlite; sqlite://; atomic-results, cross-process, " in shown.stdout
    assert "  store       omniq_sqlite.queue:SQLiteQueueStore\n  config      omniq_sqlite.config:" in shown.stdout
    assert json.loads(omniq(tmp_path, "plugins", "show", "sqlite", "--json").stdout)["distribution"] == "omniq-sqlite"
    unknown = omniq(tmp_path, "plugins", "show", "sqlte")
    assert (unknown.returncode, unknown.stderr) == (3, "error: there is no plugin 'sqlte', did you mean 'sqlite'?\n")


# ── commands of plugins ──────────────────────────────────────────────────────


def test_a_plugin_adds_a_command_which_knows_the_place(tmp_path: Path) -> None:
    commands = """
        import click
        @click.command()
        @click.pass_obj
        def zap(place):
            click.echo(f"zapping {place.url}")
    """
    install(tmp_path, "zap", ZAP, commands=commands)
    assert "Commands of plugins:\n  zap  Zap them all.\n" in omniq(tmp_path, "--help").stdout
    assert omniq(tmp_path, "--url", "sqlite:///x.db", "zap").stdout == "zapping sqlite:///x.db\n"
    assert "there is no command 'zpa', did you mean 'zap'?" in omniq(tmp_path, "zpa").stderr


def test_a_broken_command_says_so_when_it_is_called_and_not_before(tmp_path: Path) -> None:
    install(tmp_path, "zap", ZAP, commands="import nowhere")
    listed = omniq(tmp_path, "--help")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "zap  Zap them all." in listed.stdout
    called = omniq(tmp_path, "zap")
    assert called.returncode == 2
    assert called.stderr == (
        "error: acme-zap can't load acme_zap.commands:zap: ModuleNotFoundError: No module named 'nowhere'\n"
    )


def test_the_command_of_a_plugin_that_is_in_conflict_says_so_when_it_is_called(tmp_path: Path) -> None:
    install(tmp_path, "zap", ZAP, commands="import click; zap = click.Command('zap')")
    both = ZAP.replace("return [", 'return [CommandSpec("zoom", "acme_zoom:zoom"), ')
    install(tmp_path, "zoom", both)
    assert omniq(tmp_path, "zap", "--help").returncode == 0
    called = omniq(tmp_path, "zoom")
    assert called.returncode == 2
    assert called.stderr.startswith("error: plugin 'zoom' (acme-zoom 1.2) is in conflict: ")


# ── starting up ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plugins", "list"], ["worker", "--help"]])
def test_the_engine_is_not_imported_to_be_talked_about(tmp_path: Path, arguments: list[str]) -> None:
    seen = omniq(tmp_path, *arguments, PYTHONPROFILEIMPORTTIME="1")
    assert seen.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in seen.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"asyncio", "dill", "omniq.core", "omniq.queue.engine", "yaml", "uvloop"}


def test_the_command_is_installed() -> None:
    found = subprocess.run(
        [Path(sys.executable).with_name("omniq"), "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.startswith("omniq ")


def test_a_store_that_lives_in_one_process_is_refused(tmp_path: Path) -> None:
    plugin = f"""{HEAD}
    def omniq_task_queues():
        return [TaskQueueSpec("here", "acme_here.store:Store", "acme_here.store:Config", url_schemes=("here",))]
    """
    store = """
        from omniq.models.config import TaskQueueConfig
        from omniq.testing import ReferenceQueueStore
        class Config(TaskQueueConfig):
            @classmethod
            def from_url(cls, url):
                return cls()
        class Store(ReferenceQueueStore):
            def __init__(self, config):
                super().__init__("somewhere")
    """
    install(tmp_path, "here", plugin, store=store)
    refused = omniq(tmp_path, "--url", "here://", "tasks", "list")
    complaint = "error: task_queue: reference:somewhere lives in one process, which no other can look into\n"
    assert (refused.returncode, refused.stderr) == (2, complaint)
