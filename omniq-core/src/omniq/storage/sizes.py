"""How large what crosses the contract is, and how large it may be."""

from __future__ import annotations

from msgspec import Struct

from omniq.errors import PayloadTooLarge
from omniq.storage.base import Store
from omniq.storage.records import Change, NewTask, ResultRecord

BESIDE_A_VALUE = 4096
"""Bytes that the body of a result may have beside the value: who ran the task, when, and signatures."""
ALWAYS_TAKEN = 512 * 1024
"""Bytes of a body that every store takes."""


def task_bytes(task: NewTask) -> int:
    """The size of a task in a batch: its body and the ids of its parents."""
    return len(task.body) + sum(map(len, task.depends_on)) if task.depends_on else len(task.body)


def change_bytes(change: Change) -> int:
    """The size of a change in a batch: its result's."""
    return 0 if change.result is None else len(change.result.body)


def result_bytes(result: ResultRecord) -> int:
    """The size of a result in a batch."""
    return len(result.body)


class SizeLimit(Struct, frozen=True, array_like=True):
    """How many bytes a body may have, and who says so. It crosses to child processes."""

    bytes: int
    source: str
    """What allows no more: "max_body", or a store's location."""

    @classmethod
    def of(cls, max_body: int, store: Store, *, beside: int = 0) -> SizeLimit:
        """That of payloads with which so many bytes are stored besides, in a connected store, under that `max_body`."""
        taken = cls(store.max_item_bytes - beside, store.location)
        return taken if taken.bytes < max_body else cls(max_body, "max_body")

    def check(self, size: int, what: str) -> None:
        """Raise `PayloadTooLarge` if that is too much; `what` has so many bytes."""
        if size > self.bytes:
            raise PayloadTooLarge(f"{what} has {size:,} bytes; {self.source} allows {self.bytes:,}")
