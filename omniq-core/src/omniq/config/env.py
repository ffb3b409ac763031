"""Environment variables: `OMNIQ_<NAME>` for each of the settings."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, get_type_hints

from omniq.config.convert import convert
from omniq.config.settings import Settings
from omniq.errors import ConfigError
from omniq.models.redaction import is_secret, mask_url
from omniq.suggest import did_you_mean

log = logging.getLogger("omniq.config")

PREFIX: Final = "OMNIQ_"
CONFIG_FILE: Final = "OMNIQ_CONFIG"
"""The configuration file that is read when none is given."""
OTHERS: Final = frozenset({CONFIG_FILE, "OMNIQ_PLUGINS_STRICT", "OMNIQ_DISABLE_PLUGINS"})
"""Variables that aren't settings. `OMNIQ_TEST_…` is left to tests."""

_FLAGS: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
_GOT: Final = re.compile(r", got [^,]*\Z")
_warned: set[str] = set()


class EnvConfig:
    """The settings that the environment gives. A variable that is unset or empty gives none.

    `environ` stands in for the process's environment. Reading raises `ConfigError` naming the variable.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ

    def given(self) -> dict[str, Any]:
        """The settings that are set, by name. A variable that looks like ours but isn't is warned of, once."""
        self._warn_of_unknown()
        texts = {name: self._environ.get(PREFIX + name, "") for name in _hints()}
        return {name: _parse(name, text) for name, text in texts.items() if text.strip()}

    def settings(self) -> Settings:
        """All settings: the environment's, and the defaults for the rest."""
        return Settings(**self.given())

    def _warn_of_unknown(self) -> None:
        known = {PREFIX + name for name in _hints()} | OTHERS
        for variable in self._environ:
            ours = variable.startswith(PREFIX) and not variable.startswith("OMNIQ_TEST_")
            if ours and variable not in known and variable not in _warned:
                _warned.add(variable)
                log.warning("unknown environment variable %s%s", variable, did_you_mean(variable, known))


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Settings, include_extras=True)


def _parse(name: str, text: str) -> object:
    variable = PREFIX + name
    try:
        value = _READERS.get(name, str)(text.strip())
        return convert(value, _hints()[name], variable, strict=False)
    except json.JSONDecodeError:
        raise ConfigError(f'{variable}: expected JSON, such as {{"worker": "DEBUG"}}, got {text!r}') from None
    except ConfigError as error:
        shown = "" if is_secret(name) else f", got {mask_url(text)!r}"
        raise ConfigError(_GOT.sub("", str(error)) + shown) from None


def _flag(text: str) -> bool | str:
    return _FLAGS.get(text.lower(), text)


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


_READERS: Final[Mapping[str, Callable[[str], object]]] = {
    "ALLOWED_MODULES": _list,
    "COMPONENT_LOG_LEVELS": json.loads,
    "DISABLE_LOGGING": _flag,
    "LOG_LEVEL": str.upper,
    "QUEUES": _list,
}
