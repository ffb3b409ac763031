"""The Lua scripts: every call of the contract is one of them, and so one atomic step on the server."""

from __future__ import annotations

import functools
import hashlib
from importlib import resources

from msgspec import Struct

_PARTS: dict[str, tuple[str, ...]] = {
    "add": ("tasks", "moving", "adding"),
    "claim": ("tasks", "moving"),
    "extend": ("tasks", "moving"),
    "find": ("tasks",),
    "fire": ("tasks", "moving", "adding", "schedules"),
    "get": ("tasks",),
    "get_schedules": ("schedules",),
    "held": ("tasks",),
    "lapsed": ("tasks", "moving"),
    "purge": ("tasks", "moving"),
    "purge_results": ("results",),
    "put_results": ("results",),
    "put_schedule": ("schedules",),
    "replace_bodies": ("tasks",),
    "replace_results": ("results",),
    "reap": ("tasks", "moving"),
    "repair": ("tasks", "moving"),
    "transition": ("tasks", "moving", "results"),
}
"""What each script needs besides `common`: what it doesn't need would cost every call of it some microseconds."""


class Script(Struct, frozen=True):
    """A script's source, and the digest by which a server that knows it runs it."""

    source: str
    digest: str


@functools.cache
def script(name: str) -> Script:
    """`lua/{name}.lua` behind the parts that it needs."""
    folder = resources.files("omniq_redis").joinpath("lua")
    parts = ("common", *_PARTS.get(name, ()), name)
    source = "\n".join(folder.joinpath(f"{part}.lua").read_text("utf-8") for part in parts)
    return Script(source, hashlib.sha1(source.encode()).hexdigest())
