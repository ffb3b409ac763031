"""What this distribution brings. Imports neither fsspec nor anything else of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from omniq.plugins import hookimpl, stores_of
from omniq.plugins.specs import Spec

_FILE = stores_of("omniq_fsspec", "File", "file", url_schemes=("file", "s3", "gs", "gcs", "abfs", "abfss", "az"))
_MEMORY = stores_of("omniq_fsspec", "Memory", "memory", url_schemes=("memory",))


def _both(*hooks: Callable[[], Iterable[Spec]]) -> Callable[[], Iterable[Spec]]:
    return hookimpl(lambda: [*chain.from_iterable(hook() for hook in hooks)])


omniq_task_queues, omniq_result_stores, omniq_event_stores = map(_both, _FILE, _MEMORY)
