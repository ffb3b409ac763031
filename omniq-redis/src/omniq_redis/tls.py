"""What to do about a TLS connection that doesn't come about: the driver's own words name no option.

All of it is `StoreUnavailable`. Whoever puts it right needn't start anything again, and no outcome of a task is
given up for a certificate that ran out meanwhile.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from typing import Final

from redis import exceptions as redis_errors

from omniq_redis.config import ServerSettings

FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_CHECK: Final = f"see that {', '.join(FILES)} are PEM files, and that the key is that of the certificate"
_OTHER_HOST: Final = frozenset({62, 64})
"""What OpenSSL says of a certificate for another name or address."""
_NOT_VALID: Final = frozenset({9, 10})
"""What it says of one that isn't valid yet, or no longer."""


def tls_advice(error: Exception, settings: ServerSettings) -> str | None:
    """What to do about redis-py's error; None where it isn't one of TLS."""
    if not settings.ssl:
        return None
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _distrust(cause)
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason or cause}: {_CHECK}"
        if isinstance(cause, FileNotFoundError):
            return _missing_file(settings)
    if isinstance(error, redis_errors.TimeoutError) and "connecting" in str(error):
        return f"{error}: if it does no TLS on this port, leave ssl out (redis://)"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What redis-py wrapped: once, and for clusters and sentinels once more."""
    while cause := error.__cause__ or error.__context__:
        yield cause
        error = cause


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _OTHER_HOST:
        return "the server's certificate is for another host: give a host that is in it"
    if error.verify_code in _NOT_VALID:
        return f"the server's certificate isn't valid: {error.verify_message}"
    return (
        f"the server's certificate isn't trusted ({error.verify_message}): "
        f"give the file of the CA that signed it as ssl_ca_certs"
    )


def _missing_file(settings: ServerSettings) -> str | None:
    given = {name: getattr(settings, name) for name in FILES}
    missing = (f"{name}: there is no file {path}" for name, path in given.items() if path and not os.path.exists(path))
    return next(missing, None)
