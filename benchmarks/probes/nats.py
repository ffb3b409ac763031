"""The bare loop on NATS, on the server that BENCH_URL names: `python -m probes.nats`.

A message of a work queue for each task, and a key for its state, which every step replaces by compare-and-set.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import nats
import uvloop
from measure import TASKS
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, KeyValueConfig, RetentionPolicy, StreamConfig

from probes.loop import Probe

BODY = b'{"func":"m:noop","args":{"a":1},"queue":"default"}'


class NATSProbe(Probe):
    """One connection; the messages of a batch are sent together."""

    def __init__(self, url: str) -> None:
        super().__init__(TASKS)
        self.url = url
        self.held: dict[str, tuple[Msg, int]] = {}

    async def open(self) -> None:
        self.client = await nats.connect(self.url)
        self.js = self.client.jetstream()
        await self.js.add_stream(StreamConfig(name="PROBE", subjects=["probe.>"], retention=RetentionPolicy.WORK_QUEUE))
        self.states = await self.js.create_key_value(KeyValueConfig(bucket="probe", history=1))
        config = ConsumerConfig(max_ack_pending=10_000)
        self.messages = await self.js.pull_subscribe("probe.*", "probe", stream="PROBE", config=config)

    async def add(self, ids: Sequence[str]) -> None:
        await asyncio.gather(*(self.js.publish(f"probe.{task_id}", BODY) for task_id in ids))

    async def claim(self, limit: int) -> list[str]:
        try:
            messages = await self.messages.fetch(limit, timeout=0.5)
        except nats.errors.TimeoutError:
            return []
        ids = [message.subject.partition(".")[2] for message in messages]
        revisions = await asyncio.gather(*(self.states.create(task_id, b"running") for task_id in ids))
        self.held |= {each[0]: (each[1], each[2]) for each in zip(ids, messages, revisions, strict=True)}
        return ids

    async def settle(self, batch: Sequence[tuple[str, bytes]]) -> int:
        await asyncio.gather(*(self._settle(task_id, result) for task_id, result in batch))
        return len(batch)

    async def _settle(self, task_id: str, result: bytes) -> None:
        message, revision = self.held.pop(task_id)
        await self.states.update(task_id, result, last=revision)
        await message.ack()


if __name__ == "__main__":
    uvloop.run(NATSProbe(os.environ["BENCH_URL"]).measure())
