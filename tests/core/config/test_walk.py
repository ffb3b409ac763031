"""How many files somebody reads who follows OMNIQ_TASK_QUEUE_URL to the connection that is made of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
from msgspec import Struct
from omniq import AsyncOmniQ
from omniq.storage.connected import Connection

MARK = "walkmark"
AT_MOST = 14


class Arrived(Exception):
    """The store's connection is about to be made."""


def carries(value: object, depth: int = 4) -> bool:
    """Whether a part of what is plain data says where the store is."""
    if isinstance(value, str):
        return MARK in value
    if isinstance(value, Struct):
        value = [getattr(value, name) for name in value.__struct_fields__]
    elif isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return False
    return depth > 0 and any(carries(part, depth - 1) for part in list(value))


def follower(files: set[str]) -> Callable[[FrameType, str, object], None]:
    """Notes the files of ours whose functions are given the address, or give it back, until it has arrived."""

    def look(frame: FrameType, event: str, answer: object) -> None:
        file = frame.f_code.co_filename
        if "/src/omniq" not in file or event not in ("call", "return"):
            return
        seen = list(frame.f_locals.values()) if event == "call" else [answer]
        if any(map(carries, seen)):
            files.add(file.partition("/src/")[2])
            if isinstance(frame.f_locals.get("self"), Connection):
                raise Arrived

    return look


async def walk() -> set[str]:
    """The files on the way."""
    files = {"omniq/core.py"}
    sys.setprofile(follower(files))
    try:
        await AsyncOmniQ().task_queue.connect()
    except Arrived:
        return files
    finally:
        sys.setprofile(None)
    raise AssertionError("it was connected without a `Connection`")


@pytest.mark.parametrize("url", ["sqlite:///{}/walkmark.db", "postgresql://localhost/walkmark", "redis://walkmark"])
async def test_a_url_passes_few_files_on_its_way_to_a_connection(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNIQ_TASK_QUEUE_URL", url.format(tmp_path))
    AsyncOmniQ()  # what is imported and looked up once isn't part of the way
    files = await walk()
    assert len(files) <= AT_MOST, sorted(files)
    assert {"omniq/config/settings.py", "omniq/build.py", "omniq/storage/connected.py"} <= files
    assert sum(file.endswith("/connection.py") for file in files) == 1
