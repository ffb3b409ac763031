"""What a benchmark has to know of a store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import psutil
from contestants import Contestant
from goals import Goal

Place: TypeAlias = dict[str, str]
"""Environment variables that say where to work: BENCH_URL, and what a peer may need beside it."""

OMNIQ = Contestant("omniq", (("ours", "enqueue"), ("ours", "work")))
LATENCY = Contestant("omniq-latency", (("ours", "latency"),))


def huey(kind: str) -> Contestant:
    """huey on a store of its own of that kind."""
    commands = (("peers.huey_stores", "enqueue", kind), ("peers.huey_stores", "work", kind))
    return Contestant("huey", commands, ("huey",))


def nothing_to_tidy(url: str) -> None:
    """For a store that puts nothing off."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """A store, who is compared on it, and what is expected of the figures."""

    packages: tuple[str, ...]
    """What OmniQ and the probe use there."""
    contestants: tuple[Contestant, ...]
    goals: tuple[Goal, ...]
    tasks: int
    """Tasks of one measurement, unless said otherwise."""
    describe: Callable[[], str]
    """Which version it is, and what it promises."""
    place: Callable[[], AbstractContextManager[Place]]
    """An empty place, which is cleared afterwards."""
    corner: Callable[[str, str], str]
    """The URL of a named part of a place: what is in it is apart from all else."""
    tidy: Callable[[str], None] = nothing_to_tidy
    """Do now what the store itself would do at some time after many writes."""


def filesystem(folder: Path) -> str:
    """The kind of file system that holds a folder, such as `ext4` or `tmpfs`."""
    partitions = [p for p in psutil.disk_partitions(all=True) if folder.is_relative_to(p.mountpoint)]
    return max(partitions, key=lambda partition: len(partition.mountpoint)).fstype if partitions else "an unknown disk"
