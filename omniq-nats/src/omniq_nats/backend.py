"""NATS's queue and results under one configuration."""

from __future__ import annotations

from typing import ClassVar

from omniq.backend import BaseBackend, configured_by

from omniq_nats.config import NATSTaskQueueConfig


class NATSBackend(BaseBackend):
    """A queue and results in one stream of a NATS server. Takes the arguments of `NATSTaskQueueConfig`."""

    name: ClassVar[str] = "nats"

    @configured_by(NATSTaskQueueConfig)
    def __init__(self, config: NATSTaskQueueConfig) -> None:
        super().__init__(config)
