"""Each object store of the tests starts, refuses a second create-only write, and keeps what it took."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from tests.servers.base import until
from tests.servers.objects import ObjectPlace, ObjectServer, S3Server

Files = tuple[Any, str]
"""A file system, and the path in it."""


def create(files: Files, name: str, content: bytes) -> bool:
    """Put an object unless it is there; whether it wasn't."""
    filesystem, path = files
    try:
        filesystem.pipe_file(f"{path}/{name}", content, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        # SeaweedFS doesn't name the condition that failed, so s3fs takes it for just any bad request.
        if "PreconditionFailed" not in str(error.__cause__):
            raise
        return False
    return True


def read(files: Files, name: str) -> bytes:
    filesystem, path = files
    content: bytes = filesystem.cat_file(f"{path}/{name}")
    return content


def test_a_second_create_only_write_is_refused(object_place: ObjectPlace) -> None:
    files = object_place.files()
    assert create(files, "folder/object", b"first")
    assert not create(files, "folder/object", b"second")
    assert read(files, "folder/object") == b"first"


async def test_of_racing_writers_one_wins(object_place: ObjectPlace) -> None:
    files, writers = object_place.files(), range(4)
    for number in range(3):
        name = f"name-{number}"
        won = await asyncio.gather(*(asyncio.to_thread(create, files, name, b"%d" % me) for me in writers))
        (winner,) = [me for me in writers if won[me]]
        assert read(files, name) == b"%d" % winner


def test_a_place_is_empty_at_first(object_place: ObjectPlace) -> None:
    filesystem, path = object_place.files()
    found: list[Any] = []
    with suppress(FileNotFoundError):
        found = filesystem.ls(path)
    assert found == []


def test_what_was_taken_outlasts_a_kill(object_server: ObjectServer) -> None:
    if not object_server.keeps:
        pytest.skip(f"{type(object_server).__name__} loses what it took just before a kill")
    assert create(object_server.place.files(), "object", b"first")
    object_server.kill()
    object_server.start()
    assert read(object_server.place.files(), "object") == b"first"
    assert not create(object_server.place.files(), "object", b"second")


def test_what_was_taken_outlasts_a_stop(object_server: ObjectServer) -> None:
    assert create(object_server.place.files(), "object", b"first")
    object_server.stop()
    object_server.start()
    assert not create(object_server.place.files(), "object", b"second")


def test_s3_requests_are_counted() -> None:
    server = S3Server()
    server.start()
    before = server.requests()
    assert create(server.place.files(), "object", b"content")
    # A request is counted a moment after its answer.
    until(lambda: server.requests()["PUT"] == before["PUT"] + 1, "the request isn't counted")
    server.remove()
