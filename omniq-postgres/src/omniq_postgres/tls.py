"""What to do about a TLS connection to PostgreSQL that doesn't come about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import asyncpg
from omniq.errors import StoreUnavailable
from omniq.storage.tls import tls_advice

if TYPE_CHECKING:
    from omniq_postgres.config import ServerSettings

FILES: Final = ("sslrootcert", "sslcert", "sslkey")
_OTHER_HOST: Final = "give a host that is in it, or sslmode=verify-ca"


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
    if "rejected SSL upgrade" in str(error):
        return "the server does no TLS, and sslmode insists on it: switch ssl on there, or give sslmode=prefer here"
    if isinstance(error, asyncpg.ClientConfigurationError):
        lacks_ca = "root certificate" in str(error)
        return "give the file of the CA that signs the server's certificate as sslrootcert" if lacks_ca else None
    return tls_advice(error, {name: getattr(settings, name) for name in FILES}, other_host=_OTHER_HOST)
