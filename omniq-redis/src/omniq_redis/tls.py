"""What to do about a TLS connection to Redis that doesn't come about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from omniq.storage import tls
from redis import exceptions as redis_errors

from omniq_redis.config import RedisConfig

FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_OTHER_HOST: Final = "give a host that is in it"


def tls_advice(error: BaseException, settings: RedisConfig) -> str | None:
    """What to do about redis-py's error; None where it isn't one of TLS."""
    if not settings.ssl:
        return None
    files = {name: getattr(settings, name) for name in FILES}
    for cause in _causes(error):
        if advice := tls.tls_advice(cause, files, other_host=_OTHER_HOST):
            return advice
    if isinstance(error, redis_errors.TimeoutError) and "connecting" in str(error):
        return f"{error}: if it does no TLS on this port, leave ssl out (redis://)"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What redis-py wrapped: once, and for clusters and sentinels once more."""
    while cause := error.__cause__ or error.__context__:
        yield cause
        error = cause
