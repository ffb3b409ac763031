"""What an attacker, a broken disk or a slip of the hand leaves in a store, planted beneath OmniQ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

Damage: TypeAlias = str | bytes
"""SQL for the columns of a row; for Redis the bytes of a record, or a command."""


class Planter(ABC):
    """Damages what is in the store at a URL: rows that are there already, by their ids."""

    tasks: Sequence[Damage] = ()
    """What becomes of the task `b00`, of `b01` and so on."""
    schedules: Sequence[Damage] = ()
    results: Sequence[Damage] = ()
    harmless: Sequence[Damage] = ()
    """Those of the tasks' that a claim overwrites, or that are odd and sound."""
    renamed: Mapping[Damage, str] = MappingProxyType({})
    """The ids that some get."""
    events: Sequence[Damage] = ()
    keys: Sequence[tuple[str | bytes, ...]] = ()
    """Commands on what belongs to no row."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    async def plant(self) -> None:
        """Damage the tasks b00…, the schedules s00… and the results of the tasks r00…."""
