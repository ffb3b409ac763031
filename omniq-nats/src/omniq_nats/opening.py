"""A client that is connected to one of the servers, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from random import sample
from typing import Any, Final

from nats import errors
from nats.aio.client import Client
from nats.js.errors import APIError
from omniq.errors import ConfigError, StoreError, StoreFull, StoreUnavailable
from omniq.storage import connected
from omniq.storage.connected import Rule, tls_advice
from omniq.texts import get_logger

from omniq_nats.config import NATSConfig

TLS_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
PING_INTERVAL: Final = 5.0
"""Seconds between two questions whether a silent server is still there; it is given up when two stay unanswered."""
CLOSE_PATIENCE: Final = 0.5
"""Seconds that closing may take: nats-py waits for ever for a connection whose TLS couldn't be begun."""

_log = get_logger("omniq.nats")

_RULES: tuple[Rule, ...] = (
    (errors.Error, r"(?i)authorization|authentication|permissions violation|account", StoreError),
    (errors.SecureConnWantedError, "", StoreError),
    (APIError, r"(?i)insufficient|maximum (bytes|messages)|no space|resource", StoreFull),
    (APIError, r"(?i)unavailable|not available|offline|leader|code=503|stream not found", StoreUnavailable),
    (APIError, "", StoreError),
    (errors.Error, "", StoreUnavailable),
)


def store_errors(settings: NATSConfig) -> AbstractContextManager[None]:
    """Turn what nats-py and the event loop raise into the `StoreError` that it amounts to."""
    return connected.store_errors(settings, _RULES, lambda error: _advice(error, settings))


def _advice(error: BaseException, settings: NATSConfig) -> str | None:
    if isinstance(error, errors.SecureConnWantedError):
        return "the server does no TLS: leave ssl out (nats://)"
    files = {name: getattr(settings, name) for name in (*TLS_FILES, "credentials", "nkey_seed")}
    return tls_advice(error, files, other_host="give a host that is in it")


class _InsistingClient(Client):
    """Doesn't say who it is before TLS has begun: nats-py goes on without it where a server doesn't ask for it."""

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and not info.get("tls_required"):
            raise errors.SecureConnWantedError
        await super()._process_info(info, initial_connection=initial_connection)


async def open_client(
    settings: NATSConfig, known: Iterable[str], on_loss: Callable[[], None], on_error: Callable[[Exception], None]
) -> Client:
    """A client that is connected to one of the servers; `known` are those that a server has told of.

    It never connects again by itself: `on_loss` is called once, when the connection is lost or closed; `on_error`, when
    the server has refused something.
    """
    addresses = dict.fromkeys((*sample(settings.addresses, len(settings.addresses)), *known))
    with store_errors(settings):
        _look_at_files(settings)
        for number, address in enumerate(addresses, 1):
            client, connecting = _InsistingClient() if settings.ssl else Client(), asyncio.Event()
            connecting.set()
            try:
                await client.connect(f"nats://{address}", **_options(settings, connecting, on_loss, on_error))
            except BaseException as error:
                connecting.clear()
                await close_client(client)
                if isinstance(error, ModuleNotFoundError):
                    raise ConfigError("nkey_seed, credentials: pip install omniq-nats[nkeys]") from error
                if number == len(addresses) or not isinstance(error, Exception):
                    raise
                _log.debug("%s: %s", address, error)
            else:
                connecting.clear()
                return client
    raise AssertionError


def _look_at_files(settings: NATSConfig) -> None:
    """Raise `OSError` for one that can't be read: nats-py looks at it only when a server asks for it."""
    for file in filter(None, (settings.credentials, settings.nkey_seed)):
        open(file).close()


async def close_client(client: Client) -> None:
    """Close it, whatever has become of its connection."""
    with suppress(OSError, errors.Error, TimeoutError, AssertionError):  # the last, if it hasn't begun to connect
        async with asyncio.timeout(CLOSE_PATIENCE):
            await client.close()


def _options(
    settings: NATSConfig, connecting: asyncio.Event, on_loss: Callable[[], None], on_error: Callable[[Exception], None]
) -> dict[str, Any]:
    async def lost() -> None:
        on_loss()

    async def failed(error: Exception) -> None:
        if connecting.is_set():
            raise error  # else it tries again, for two minutes
        _log.debug("%s: %s", settings.location, error)
        on_error(error)

    who = {"user": settings.username, "password": settings.password, "token": settings.token}
    files = {"user_credentials": settings.credentials, "nkeys_seed": settings.nkey_seed}
    return {
        "name": "omniq",
        "allow_reconnect": False,
        "connect_timeout": settings.timeout,
        "ping_interval": PING_INTERVAL,
        "closed_cb": lost,
        "error_cb": failed,
        "tls": _tls(settings) if settings.ssl else None,
        **{name: value for name, value in {**who, **files}.items() if value is not None},
    }


def _tls(settings: NATSConfig) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if settings.ssl_ca_certs is not None:
        context.load_verify_locations(settings.ssl_ca_certs)
    if settings.ssl_certfile is not None:
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    return context
