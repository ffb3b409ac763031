"""All kinds of workers keep their promises."""

from __future__ import annotations

from omniq.testing.conformance import WorkerConformance


class TestAsync(WorkerConformance):
    worker_type = "async"


class TestThread(WorkerConformance):
    worker_type = "thread"


class TestProcess(WorkerConformance):
    worker_type = "process"
    most = 4


class TestGevent(WorkerConformance):
    worker_type = "gevent"
