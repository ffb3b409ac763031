"""Environment variables: `OMNIQ_<NAME>` for each of the settings."""

from __future__ import annotations

import json
import os
import re
from collections import ChainMap
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, get_type_hints

from omniq.config.convert import convert
from omniq.config.settings import Settings
from omniq.errors import ConfigError
from omniq.logs import get_logger
from omniq.models.redaction import is_secret, mask_url
from omniq.suggest import did_you_mean

log = get_logger("omniq.config")

PREFIX: Final = "OMNIQ_"
CONFIG_FILE: Final = "OMNIQ_CONFIG"
"""The configuration file that is read when none is given."""
NEVER_EMPTY: Final = frozenset(
    {
        "ALLOWED_MODULES",
        "EVENT_STORAGE_URL",
        "RESULT_STORAGE_URL",
        "SERIALIZER",
        "SIGNING_KEY",
        "TASK_QUEUE_URL",
    }
)
"""Settings whose loss would go unnoticed and do harm: it would turn a protection off, or lead to another store. So an
empty variable, such as a script makes of one that isn't set, is an error and not the default."""
OTHERS: Final = frozenset({CONFIG_FILE, "OMNIQ_PLUGINS_STRICT", "OMNIQ_DISABLE_PLUGINS"})
"""Variables that aren't settings. `OMNIQ_TEST_…` is left to tests."""

withheld: Final[dict[str, str]] = {}
"""Variables that this process was given apart from its environment, since programs that it starts inherit that."""

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
MAX_SHOWN: Final = 200
"""Characters of a value that an error still quotes."""
_GOT: Final = re.compile(r", got [^,]*\Z")
_warned: set[str] = set()


def environment() -> Mapping[str, str]:
    """The environment of this process, with what was withheld from it."""
    return ChainMap(os.environ, withheld)


def secrets() -> dict[str, str]:
    """The variables of `environment()` that hold a secret and nothing else."""
    names = [PREFIX + name for name in _hints() if is_secret(name)]
    return {name: text for name in names if (text := environment().get(name)) is not None}


def without_secrets() -> dict[str, str]:
    """The environment for a process that gets `secrets()` in another way."""
    hidden = secrets()
    return {name: text for name, text in os.environ.items() if name not in hidden}


class EnvConfig:
    """The settings that the environment gives.

    A variable that is unset gives none, and so does an empty one, except for `NEVER_EMPTY`, where it is an error.
    `environ` stands in for the process's environment. Reading raises `ConfigError` naming the variable.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = environment() if environ is None else environ

    def given(self) -> dict[str, Any]:
        """The settings that are set, by name. A variable that looks like ours but isn't is warned of, once."""
        self._warn_of_unknown()
        texts = {name: self._environ[PREFIX + name] for name in _hints() if PREFIX + name in self._environ}
        return {name: _parse(name, text) for name, text in texts.items() if not _is_blank(PREFIX + name, text)}

    def config_file(self) -> str | None:
        """The configuration file that OMNIQ_CONFIG names. Raises `ConfigError` if it is set and empty."""
        file = self._environ.get(CONFIG_FILE)
        return None if file is None or _is_blank(CONFIG_FILE, file) else file

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


def _is_blank(variable: str, text: str) -> bool:
    if text.strip():
        return False
    if variable == CONFIG_FILE or variable.removeprefix(PREFIX) in NEVER_EMPTY:
        raise ConfigError(f"{variable}: it is empty; unset it where nothing is meant")
    return True


def _parse(name: str, text: str) -> object:
    variable = PREFIX + name
    try:
        value = _READERS.get(name, str)(text.strip())
        return convert(value, _hints()[name], variable, strict=False)
    except (json.JSONDecodeError, RecursionError):
        raise ConfigError(f'{variable}: expected JSON, such as {{"worker": "DEBUG"}}{_got(text)}') from None
    except ConfigError as error:
        raise ConfigError(_GOT.sub("", str(error)) + ("" if is_secret(name) else _got(text))) from None


def _got(text: str) -> str:
    masked = mask_url(text)
    return f", got {masked!r}" if len(masked) <= MAX_SHOWN else ""


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
