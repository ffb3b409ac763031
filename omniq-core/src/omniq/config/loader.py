"""`ConfigProvider`: one configuration from arguments, the environment, a file and the defaults, in this order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from omniq.config import layers
from omniq.config.choices import OmniQConfig
from omniq.config.convert import convert
from omniq.config.env import EnvConfig, environment
from omniq.config.layers import Layer
from omniq.errors import ConfigError
from omniq.models.redaction import mask_url
from omniq.plugins.registry import Registry, registry


class ConfigProvider:
    """Loads the configuration, anew at every `load`.

    `source` is the path of a YAML file, a dict or an `OmniQConfig`; without one, the file that OMNIQ_CONFIG
    names is read, if any. `environ` and `plugins` stand in for the process's own.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Mapping[str, Any] | OmniQConfig | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        plugins: Registry | None = None,
    ) -> None:
        self._environ = environment() if environ is None else environ
        self._source = source if source is not None else EnvConfig(self._environ).config_file()
        self._registry = plugins or registry()

    def load(self, **arguments: Any) -> OmniQConfig:
        """What holds: argument over environment over source over default.

        The arguments are named as the fields of `OmniQConfig`; None is as good as not given. Where the
        environment or an argument gives a store's URL, or another type, what the source says of that store
        is dropped, but for what all stores have: `project_name`, `queues` and `serializer`. Who turns dill off,
        by `serializer="msgspec"`, is overruled by nobody.

        Raises `ConfigError`, whose message begins with the variable or with the path of the entry.
        """
        environment = layers.from_settings(EnvConfig(self._environ).given())
        merged: Layer = {}
        given = (self._source_layer(), environment, _checked(arguments))
        for layer in given:
            merged = layers.merge(merged, layer, self._registry)
        if any(map(layers.turns_dill_off, given)):
            merged["task_queue"].setdefault("config", {})["serializer"] = "msgspec"
        return convert(merged, OmniQConfig)

    def _source_layer(self) -> Layer:
        if self._source is None:
            return {}
        if isinstance(self._source, Mapping | OmniQConfig):
            return _checked_source(self._source)
        from omniq.config.files import load_yaml  # it imports yaml, which few need

        try:
            return _checked_source(load_yaml(self._source))
        except ConfigError as error:
            name = mask_url(os.fspath(self._source))
            raise ConfigError(str(error) if name in str(error) else f"{error} (in {name})") from None


def _checked_source(source: Mapping[str, Any] | OmniQConfig) -> Layer:
    """A file's or dict's layer, in which protections aren't turned off by values that turned out empty."""
    if isinstance(source, Mapping):
        empty = next((name for name in ("signing_key", "allowed_modules") if source.get(name, "") is None), None)
        if empty is not None:
            raise ConfigError(f"{empty}: it is empty; leave it out where nothing is meant")
    return _checked(source)


def _checked(source: Mapping[str, Any] | OmniQConfig) -> Layer:
    """The layer, if it is valid on its own, so that layers can be merged without looking twice."""
    if isinstance(source, Mapping):
        unknown = {name: value for name, value in source.items() if name not in OmniQConfig.__struct_fields__}
        convert(unknown, OmniQConfig)  # a name with nothing behind it may be a protection that is misspelt
    layer = layers.from_source(source)
    convert(layer, OmniQConfig)
    return layer
