"""The Lua scripts: every call of the contract is one of them, and so one atomic step on the server."""

from __future__ import annotations

import functools
import hashlib
from importlib import resources

from msgspec import Struct

_SHARED = ("common", "tasks", "results", "schedules")


class Script(Struct, frozen=True):
    """A script's source, and the digest by which a server that knows it runs it."""

    source: str
    digest: str


@functools.cache
def script(name: str) -> Script:
    """`lua/{name}.lua` behind the parts that all scripts share."""
    folder = resources.files("omniq_redis").joinpath("lua")
    source = "\n".join(folder.joinpath(f"{part}.lua").read_text("utf-8") for part in (*_SHARED, name))
    return Script(source, hashlib.sha1(source.encode()).hexdigest())
