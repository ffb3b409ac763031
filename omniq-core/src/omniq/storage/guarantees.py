"""What a store promises, as it is configured and running now."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Guarantees(Struct, frozen=True, kw_only=True):
    """What holds for every task that `add` has acknowledged, and every result and change that was."""

    survives_process_kill: bool
    """They outlive the sudden death of any process, the server's included."""
    survives_power_loss: bool
    """They outlive a loss of power where they are kept."""
    survives_failover: bool
    """They are still there when a replica takes over."""
    clock: Literal["host", "server"]
    """Whose clock decides what is due, expired or lapsed."""
    push: bool
    """A waiting worker in another process is woken by an `add`, without polling."""
    atomic_results: bool
    """A result is stored in the very step that ends its task, when both live here."""
    fenced: bool = True
    """A worker whose lease has passed on can't finish, retry or release. Every store must."""
    evidence: tuple[str, ...] = ()
    """What the answer rests on, such as the server's own settings: "fsync=on"."""
