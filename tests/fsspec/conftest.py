"""Of the suite on object stores, a part: all of it takes minutes for each, as every call is a request."""

from __future__ import annotations

import os
from zlib import crc32

import pytest

VARIABLE = "OMNIQ_TEST_OBJECTS"
PARTS = {"TestS3": 8, "TestAzure": 8, "TestGoogle": 4}
"""One test in so many is run, always the same ones, unless the variable is set to "all"."""


def pytest_report_header() -> str:
    return f"object stores: {'all' if runs_all() else f'a part of the suite; {VARIABLE}=all runs all of it'}"


def runs_all() -> bool:
    return os.environ.get(VARIABLE) == "all"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [] if runs_all() else [item for item in items if _is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


def _is_left_out(item: pytest.Item) -> bool:
    number = next((number for name, number in PARTS.items() if f"::{name}::" in item.nodeid), 1)
    return crc32(item.nodeid.rpartition("tests/")[2].encode()) % number != 0
