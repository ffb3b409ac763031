"""How long a string a server takes: on a longer one it hangs up, without a word that a client could rely upon."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

from omniq.errors import StoreUnavailable, ValueRefused
from redis import exceptions as redis_errors

from omniq_redis.opening import Client, kind_of, node_of

LONGEST = 512 * 1024 * 1024
"""Bytes of `proto-max-bulk-len` where nobody has changed it."""
SHORTEST = 1024 * 1024
"""Bytes of the smallest one that a server accepts."""
PRECISION = 16 * 1024
"""Bytes by which a limit that was found by trying may be too low."""
TRIES = 3
"""Times that the server must hang up on a string before the string is at fault, and not the network."""


async def ask_limit(client: Client, namespace: str) -> int | None:
    """Bytes of the longest string that the server says it takes; None where it may not be asked."""
    node = await node_of(client, namespace)
    with suppress(redis_errors.ResponseError):  # managed servers and narrow ACLs forbid it
        settings = await client.execute_command("CONFIG GET", "proto-max-bulk-len", **node)
        return int(settings["proto-max-bulk-len"])
    return None


async def find_limit(client: Client, namespace: str, size: int) -> int | None:
    """Bytes of the longest string that the server takes, if that is less than `size`; found by trying."""
    node = await node_of(client, namespace)

    async def takes(length: int) -> bool:
        for _ in range(TRIES):
            try:
                with suppress(redis_errors.NoPermissionError):  # it was read, though it may not be said
                    await client.execute_command("ECHO", bytes(length), **node)
            except Exception as error:
                if kind_of(error) not in (StoreUnavailable, ValueRefused):
                    raise
            else:
                return True
        return False

    if await takes(size) or not await takes(0):
        return None
    return await _boundary(takes, SHORTEST, size)


async def _boundary(takes: Callable[[int], Awaitable[bool]], low: int, high: int) -> int:
    """About the largest length that is taken, by halving."""
    while high - low > PRECISION:
        middle = (low + high) // 2
        low, high = (middle, high) if await takes(middle) else (low, middle)
    return low
