"""A filesystem that overwrites files where it was asked to create them, and a program that uses it."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from omniq import AsyncOmniQ
from omniq_fsspec.queue import AsyncFileTaskQueue


class CarelessFileSystem(LocalFileSystem):  # type: ignore[misc]
    """A local directory, in which `mode="create"` means nothing."""

    protocol = "careless"

    def __init__(self, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix("careless://"))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        super().pipe_file(path, value)


fsspec.register_implementation("careless", CarelessFileSystem, clobber=True)


def omniq_in(folder: str) -> AsyncOmniQ:
    """An OmniQ whose files are in that folder."""
    return AsyncOmniQ(task_queue=AsyncFileTaskQueue(base_dir=f"careless://{folder}"))


async def enqueue_one(folder: str) -> None:
    """Enqueue a task, and say so; then keep the place open until a line comes."""
    async with omniq_in(folder) as oq:
        print(await oq.enqueue(sum, [[1, 2]]), flush=True)
        await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(enqueue_one(sys.argv[1]))
