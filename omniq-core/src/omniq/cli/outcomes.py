"""Waiting for a task's outcome, and printing it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from omniq.cli.exits import FAILED, Failure
from omniq.cli.output import print_json, say_block, value_text
from omniq.cli.views import result_data
from omniq.errors import ResultTimeout, TaskNotFound

if TYPE_CHECKING:
    from omniq.core import AsyncOmniQ
    from omniq.models.result import TaskResult


async def wait_for_outcome(oq: AsyncOmniQ, task_id: str, timeout: float | None) -> TaskResult:
    """The outcome, once the task has ended. Raises as `get_result` does, but returns failures."""
    from omniq.results.outcome import OutcomeWaiter

    return await OutcomeWaiter(oq.task_queue, oq.result_store).result(task_id, timeout)


async def known_outcome(oq: AsyncOmniQ, task_id: str) -> TaskResult:
    """The outcome, if the task has ended by now. Raises `ResultTimeout` if it hasn't, else as `get_result` does."""
    with suppress(TaskNotFound):  # its result may be kept for longer
        task = await oq.get_task(task_id)
        if not task.state.is_terminal:
            raise ResultTimeout(f"task {task_id} hasn't ended: it is {task.state}")
    return await wait_for_outcome(oq, task_id, None)


def print_outcome(result: TaskResult, *, as_json: bool) -> None:
    """Print what the task returned. Raises `Failure` if it didn't: with the remote traceback on stderr."""
    from omniq.models.state import ResultStatus

    if as_json:
        print_json(result_data(result))
    elif result.status is ResultStatus.SUCCESS:
        click.echo(value_text(result.value))
    if result.status is not ResultStatus.SUCCESS:
        raise _failure(result, with_traceback=not as_json)


def _failure(result: TaskResult, *, with_traceback: bool) -> Failure:
    reason = f": {result.error_type}: {result.error_message}" if result.error_type else ""
    if with_traceback and result.traceback:
        # Its last words are the reason, which follows.
        say_block(result.traceback.rstrip().removesuffix(reason[2:].rstrip()).rstrip())
    verb = {"error": "failed", "cancelled": "was cancelled", "expired": "wasn't started before its TTL ended"}
    return Failure(f"task {result.task_id} {verb[result.status]}{reason}", FAILED)
