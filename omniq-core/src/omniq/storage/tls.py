"""What to do about a TLS connection that doesn't come about: drivers' own words name no option.

Stores report all of it as `StoreUnavailable`. Whoever puts it right needn't start anything again, and no outcome of a
task is given up for a certificate that ran out meanwhile.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Final

_OTHER_HOST: Final = frozenset({62, 64})
"""What OpenSSL says of a certificate for another name or address."""
_NOT_VALID: Final = frozenset({9, 10})
"""What it says of one that isn't valid yet, or no longer."""


def tls_advice(error: BaseException, files: Mapping[str, str | None], *, other_host: str) -> str | None:
    """What to do about the error; None where neither it nor what it came from is one of TLS.

    `files` are the store's options that name files, that of the CA first, and what they are set to; `other_host` is
    the remedy for a certificate that is for another host.
    """
    advice = (_advice(each, files, other_host) for each in _with_causes(error))
    return next(filter(None, advice), None)


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what drivers have wrapped in it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _advice(error: BaseException, files: Mapping[str, str | None], other_host: str) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _distrust(error, next(iter(files)), other_host)
    if isinstance(error, ssl.SSLError):
        names = ", ".join(files)
        return (
            f"TLS failed: {getattr(error, 'reason', None) or error}: "
            f"see that {names} are PEM files, and that the key is that of the certificate"
        )
    return _missing_file(files) if isinstance(error, FileNotFoundError) else None


def _distrust(error: ssl.SSLCertVerificationError, ca_option: str, other_host: str) -> str:
    if error.verify_code in _OTHER_HOST:
        return f"the server's certificate is for another host: {other_host}"
    if error.verify_code in _NOT_VALID:
        return f"the server's certificate isn't valid: {error.verify_message}"
    return (
        f"the server's certificate isn't trusted ({error.verify_message}): "
        f"give the file of the CA that signed it as {ca_option}"
    )


def _missing_file(files: Mapping[str, str | None]) -> str | None:
    missing = (f"{name}: there is no file {path}" for name, path in files.items() if path and not os.path.exists(path))
    return next(missing, None)
