"""`omniq workflows`: the graph of a task, as text, as Mermaid and as JSON."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from omniq import AsyncOmniQ, call, chain, group

from tests.core.cli import tasks
from tests.core.cli.support import Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line on a file of its own, with a workflow of four tasks."""
    cli = Cli(tmp_path)

    async def fill() -> None:
        async with AsyncOmniQ(config=cli.config) as oq:
            a, b, c, d = (call(tasks.greet, ["Tom"], task_id=name) for name in "abcd")
            await oq.enqueue_workflow(chain(a, group(b, c), d))

    asyncio.run(fill())
    return cli


@pytest.mark.parametrize("task_id", ["a", "c", "d"])
def test_any_task_shows_the_whole_graph(cli: Cli, task_id: str) -> None:
    lines = [line.split() for line in cli.output("workflows", "show", task_id).splitlines()]
    assert lines == [
        ["level", "1"],
        ["#1", "tests.core.cli.tasks:greet", "pending", "a"],
        ["level", "2"],
        ["#2", "tests.core.cli.tasks:greet", "waiting", "b", "after", "#1"],
        ["#3", "tests.core.cli.tasks:greet", "waiting", "c", "after", "#1"],
        ["level", "3"],
        ["#4", "tests.core.cli.tasks:greet", "waiting", "d", "after", "#2", "to", "#3"],
    ]


def test_it_is_told_how_far_it_is(cli: Cli) -> None:
    cli.work_off()
    shown = cli.json("workflows", "show", "b")
    assert shown["complete"] is True
    assert {task["id"]: (task["state"], set(task["depends_on"])) for task in shown["tasks"]} == {
        "a": ("success", set()),
        "b": ("success", {"a"}),
        "c": ("success", {"a"}),
        "d": ("success", {"b", "c"}),
    }


def test_as_mermaid(cli: Cli) -> None:
    lines = cli.output("workflows", "show", "a", "--mermaid").splitlines()
    assert lines[0] == "flowchart TD"
    assert sum("-->" in line for line in lines) == 4


def test_what_is_cut_is_told(cli: Cli) -> None:
    result = cli("workflows", "show", "a", "--limit", "2")
    assert (result.exit_code, result.stderr) == (0, "there are more tasks than these 2\n")


def test_what_cannot_be_shown(cli: Cli) -> None:
    result = cli("workflows", "show", "nobody")
    assert (result.exit_code, result.stderr.startswith("error: no task nobody in sqlite:")) == (3, True)
    assert cli("workflows", "show", "a", "--json", "--mermaid").exit_code == 2
