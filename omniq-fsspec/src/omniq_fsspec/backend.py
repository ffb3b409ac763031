"""Queue, results and events in files, or in memory, under one configuration."""

from __future__ import annotations

from typing import ClassVar

from omniq.backend import BaseBackend, configured_by

from omniq_fsspec.config import FileTaskQueueConfig, MemoryTaskQueueConfig


class FileBackend(BaseBackend):
    """A queue, results and events in files. Takes the arguments of `FileTaskQueueConfig`."""

    name: ClassVar[str] = "file"

    @configured_by(FileTaskQueueConfig)
    def __init__(self, config: FileTaskQueueConfig) -> None:
        super().__init__(config)


class MemoryBackend(BaseBackend):
    """A queue, results and events in this process's memory. Takes the arguments of `MemoryTaskQueueConfig`."""

    name: ClassVar[str] = "memory"

    @configured_by(MemoryTaskQueueConfig)
    def __init__(self, config: MemoryTaskQueueConfig) -> None:
        super().__init__(config)
