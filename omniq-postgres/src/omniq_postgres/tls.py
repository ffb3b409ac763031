"""What to do about a TLS connection to PostgreSQL that doesn't come about."""

from __future__ import annotations

from typing import Final

import asyncpg
from omniq.storage import tls

from omniq_postgres.config import PostgresConfig

FILES: Final = ("sslrootcert", "sslcert", "sslkey")
_OTHER_HOST: Final = "give a host that is in it, or sslmode=verify-ca"


def tls_advice(error: BaseException, settings: PostgresConfig) -> str | None:
    """What to do about asyncpg's error; None where it isn't one of TLS."""
    if "rejected SSL upgrade" in str(error):
        return "the server does no TLS, and sslmode insists on it: switch ssl on there, or give sslmode=prefer here"
    if isinstance(error, asyncpg.ClientConfigurationError):
        lacks_ca = "root certificate" in str(error)
        return "give the file of the CA that signs the server's certificate as sslrootcert" if lacks_ca else None
    return tls.tls_advice(error, {name: getattr(settings, name) for name in FILES}, other_host=_OTHER_HOST)
