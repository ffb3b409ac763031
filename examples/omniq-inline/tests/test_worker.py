from omniq.testing.conformance import WorkerConformance


class TestInline(WorkerConformance):
    worker_type = "inline"
