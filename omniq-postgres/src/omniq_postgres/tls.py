"""What to do about a TLS connection that doesn't come about: the driver's own words name no option.

All of it is `StoreUnavailable`. Whoever puts it right needn't start anything again, and no outcome of a task is
given up for a certificate that ran out meanwhile.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import asyncpg
from omniq.errors import StoreUnavailable

if TYPE_CHECKING:
    from omniq_postgres.config import ServerSettings

FILES: Final = ("sslrootcert", "sslcert", "sslkey")
_CHECK: Final = f"see that {', '.join(FILES)} are PEM files, and that the key is that of the certificate"
_OTHER_HOST: Final = frozenset({62, 64})
"""What OpenSSL says of a certificate for another name or address."""
_NOT_VALID: Final = frozenset({9, 10})
"""What it says of one that isn't valid yet, or no longer."""


@contextmanager
def tls_errors(settings: ServerSettings) -> Iterator[None]:
    """Say what to do about an attempt to connect that TLS has ended."""
    try:
        yield
    except (OSError, asyncpg.ClientConfigurationError) as error:
        advice = _advice(error, settings)
        if advice is None:
            raise
        raise StoreUnavailable(f"{settings.location}: {advice}") from error


def _advice(error: Exception, settings: ServerSettings) -> str | None:
    """What to do; None where it wasn't TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _distrust(error)
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}: {_CHECK}"
    if "rejected SSL upgrade" in str(error):
        return "the server does no TLS, and sslmode insists on it: switch ssl on there, or give sslmode=prefer here"
    if isinstance(error, asyncpg.ClientConfigurationError):
        lacks_ca = "root certificate" in str(error)
        return "give the file of the CA that signs the server's certificate as sslrootcert" if lacks_ca else None
    return _missing_file(settings) if isinstance(error, FileNotFoundError) else None


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _OTHER_HOST:
        return "the server's certificate is for another host: give a host that is in it, or sslmode=verify-ca"
    if error.verify_code in _NOT_VALID:
        return f"the server's certificate isn't valid: {error.verify_message}"
    return (
        f"the server's certificate isn't trusted ({error.verify_message}): "
        f"give the file of the CA that signed it as sslrootcert"
    )


def _missing_file(settings: ServerSettings) -> str | None:
    given = {name: getattr(settings, name) for name in FILES}
    missing = (f"{name}: there is no file {path}" for name, path in given.items() if path and not os.path.exists(path))
    return next(missing, None)
