"""Redis's queue and results under one configuration."""

from __future__ import annotations

from typing import ClassVar

from omniq.backend import BaseBackend, configured_by

from omniq_redis.config import RedisTaskQueueConfig


class RedisBackend(BaseBackend):
    """A queue and results on one Redis server. Takes the arguments of `RedisTaskQueueConfig`."""

    name: ClassVar[str] = "redis"

    @configured_by(RedisTaskQueueConfig)
    def __init__(self, config: RedisTaskQueueConfig) -> None:
        super().__init__(config)
