"""What is known of each installed plugin."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from omniq.plugins.specs import Spec

Status: TypeAlias = Literal["active", "broken", "incompatible", "conflict", "disabled"]


class PluginRecord(Struct, frozen=True, kw_only=True):
    """An installed plugin and what became of it."""

    name: str
    """The name of its entry point."""
    distribution: str
    version: str
    value: str
    """The module that its entry point names."""
    status: Status = "active"
    """`broken`: it can't be loaded; `incompatible`: written for another version of the hooks; `conflict`:
    something else has its name, or one that it provides; `disabled`: by OMNIQ_DISABLE_PLUGINS."""
    error: str | None = None
    """Why it isn't active."""
    specs: tuple[Spec, ...] = ()
    """What it provides, or would if it were active, as far as that is known."""

    def __str__(self) -> str:
        return f"plugin {self.name!r} ({self.distribution} {self.version})"


class Distribution(Protocol):
    """The part of `importlib.metadata.Distribution` that is used."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...


class EntryPoint(Protocol):
    """The part of `importlib.metadata.EntryPoint` that is used."""

    @property
    def name(self) -> str: ...

    @property
    def value(self) -> str: ...

    @property
    def dist(self) -> Distribution | None: ...

    def load(self) -> object: ...
