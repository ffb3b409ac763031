"""What is measured on each store, against whom, and where: a module for each."""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from pathlib import Path

from stores.base import Store

NAMES = ("file", "kinds", "memory", "nats", "postgres", "redis", "sqlite")

sys.path.append(str(Path(__file__).parents[2]))  # the servers are those of the tests


def load(name: str) -> Store:
    """The store of that name. Only its own driver is imported.

    From here on SIGTERM, like Ctrl-C, lets places be cleared and servers be stopped.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    store: Store = import_module(f"stores.{name}").STORE
    return store
