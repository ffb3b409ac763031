"""The contract as tests: a store is what passes them. One class, and a URL:

    class TestMyStore(BackendConformance):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mystore:///{tmp_path}"

The plugin for that URL is asked for its task queue, and for results and events if it has them. Each test has a project
of its own, which is dropped afterwards. What a store doesn't declare among its capabilities it must refuse, and is
reported so. `requirements()` lists what is required by ids, such as `queue.transition.a_late_worker_is_refused`.

The clock is moved with `omniq.clock`: a store with a clock of its own adds `omniq.clock.offset()` to it. Such a
clock may differ from this process's by two seconds. `wait` must hear `omniq.storage.wakeups` of this process.
"""

import sys
from pkgutil import iter_modules

import pytest

# Before their first import: pytest explains a failed assert only in modules that it has rewritten.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in iter_modules(__path__)))
if "omniq.testing.builders" not in sys.modules:
    pytest.register_assert_rewrite("omniq.testing.builders")

from omniq.testing.conformance.base import Opener, open_store  # noqa: E402
from omniq.testing.conformance.suite import BackendConformance, WorkerConformance, requirements  # noqa: E402

__all__ = ["BackendConformance", "Opener", "WorkerConformance", "open_store", "requirements"]
