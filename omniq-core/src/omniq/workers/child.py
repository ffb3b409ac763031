"""The child process of a process worker: it runs one task after another and reports each.

Started as `python -m omniq.workers.child FD`; it speaks over that inherited socket, and imports nothing of the
parent's `__main__`, so that a script needs no `if __name__ == "__main__"` guard.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection

import msgspec
from msgspec import Struct

from omniq.config.security import Security
from omniq.models.state import TaskState
from omniq.models.task import Call
from omniq.storage.records import TaskRecord
from omniq.storage.sizes import SizeLimit
from omniq.workers.execution import Execution
from omniq.workers.job import Job, Ran
from omniq.workers.threads import ThreadLoop

SIGNALS = (signal.SIGINT, signal.SIGTERM)
READY = b""
"""The child's first message."""


class Hello(Struct, array_like=True):
    """The parent's first message."""

    sys_path: list[str]
    security: Security
    max_result: SizeLimit
    parent: int


class ChildTask(Struct, array_like=True):
    """What a child needs of a claimed task."""

    id: str
    queue_name: str
    epoch: int
    attempts: int
    schedule_id: str | None
    call: Call

    @classmethod
    def of(cls, job: Job) -> ChildTask:
        record = job.record
        return cls(record.id, record.queue_name, record.epoch, record.attempts, record.schedule_id, job.call)

    def job(self) -> Job:
        """The job again, with what running it takes."""
        record = TaskRecord(
            id=self.id,
            queue_name=self.queue_name,
            body=b"",
            state=TaskState.RUNNING,
            priority=0,
            created_at=0.0,
            run_at=0.0,
            epoch=self.epoch,
            attempts=self.attempts,
            schedule_id=self.schedule_id,
        )
        return Job(record, self.call)


_encode = msgspec.msgpack.Encoder().encode
_decode_tasks = msgspec.msgpack.Decoder(list[ChildTask]).decode


def main() -> None:
    """Run tasks until the parent hangs up."""
    connection = Connection(int(sys.argv[1]))
    # The parent takes the end of this line for our death: nothing that a task leaves behind may hold it open.
    os.set_inheritable(connection.fileno(), False)
    os.register_at_fork(after_in_child=connection.close)
    _leave_signals_to_the_parent()
    loop = ThreadLoop()
    with suppress(EOFError, ConnectionError):  # the parent has hung up, or is gone
        _serve(connection, loop)
    loop.close()


def _serve(connection: Connection, loop: ThreadLoop) -> None:
    hello = msgspec.msgpack.decode(connection.recv_bytes(), type=Hello)
    sys.path[:] = hello.sys_path
    execution = Execution(hello.security, hello.max_result)
    threading.Thread(target=_die_with, args=(hello.parent,), daemon=True).start()
    connection.send_bytes(READY)
    while True:
        for task in _decode_tasks(connection.recv_bytes()):
            connection.send_bytes(_encode(_run(task.job(), execution, loop)))


def _leave_signals_to_the_parent() -> None:
    """Ctrl-C, and a supervisor's SIGTERM, reach the whole process group: the parent decides what becomes of tasks.

    Handlers that do nothing, since ignored signals would stay ignored in programs that a task starts. The parent
    blocked both until here.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _run(job: Job, execution: Execution, loop: ThreadLoop) -> Ran:
    call = execution.load(job)
    if isinstance(call, Ran):
        return call
    # The parent's clock enforces the timeout, by killing this process.
    await_ = functools.partial(loop.run, timeout=None)
    return execution.run_sync(job, call, await_)


def _die_with(parent: int) -> None:
    """End this process when its parent is gone, so that no task runs on that nobody will settle."""
    gone = threading.Event()
    while os.getppid() == parent:
        gone.wait(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()
