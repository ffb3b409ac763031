"""Reading a URL that says where a store is: what all stores' URLs have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from omniq.config.convert import convert
from omniq.errors import ConfigError

T = TypeVar("T")


def read_url(url: str, config: type[T], place_of: Callable[[SplitResult], dict[str, Any]]) -> T:
    """The configuration: what `place_of` reads of the URL's parts, and its query as further fields.

    Raises `ConfigError`, such as `url.timout: unknown name, did you mean 'timeout'?`.
    """
    try:
        parts = urlsplit(url, allow_fragments=False)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        return convert({**place_of(parts), **options}, config, "url", strict=False)
    except ConfigError:
        raise
    except ValueError:  # of the standard library: it may quote a piece of the password
        raise ConfigError("url: the host, port or query can't be read") from None


def user_of(parts: SplitResult) -> dict[str, Any]:
    """`username` and `password`, as far as they are given."""
    username, _, password = parts.netloc.rpartition("@")[0].partition(":")
    given = {"username": unquote(username), "password": unquote(password)}
    return {name: value for name, value in given.items() if value}


def hosts_of(parts: SplitResult) -> str:
    """The host, or hosts, with their ports, as they are written."""
    return parts.netloc.rpartition("@")[2]
