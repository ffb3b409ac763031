"""The bare loop on Redis, in the empty database that BENCH_URL names: `python -m probes.redis`.

One Lua script for each batch; a hash for each task, a key for each result.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import uvloop
from measure import TASKS
from msgspec import Struct
from msgspec.msgpack import Decoder
from redis.asyncio import Redis

from probes.loop import Probe, encode

LEASE = 30.0
ADD_LUA = """
for i = 1, #ARGV, 2 do
  redis.call('HSET', 'task:' .. ARGV[i], 'body', ARGV[i + 1], 'state', 'pending')
  redis.call('ZADD', 'queue', 0, ARGV[i])
end
redis.call('PUBLISH', 'wake', '1')
"""
CLAIM_LUA = """
local limit, now, lease_until, token = unpack(ARGV)
local bodies = {}
for i, id in ipairs(redis.call('ZRANGEBYSCORE', 'queue', '-inf', now, 'LIMIT', 0, limit)) do
  redis.call('ZREM', 'queue', id)
  redis.call('ZADD', 'lease', lease_until, id)
  redis.call('HSET', 'task:' .. id, 'state', 'running', 'token', token)
  bodies[i] = redis.call('HGET', 'task:' .. id, 'body')
end
return bodies
"""
SETTLE_LUA = """
local settled = 0
for i = 2, #ARGV, 2 do
  local id = ARGV[i]
  if redis.call('HGET', 'task:' .. id, 'token') == ARGV[1] then
    redis.call('ZREM', 'lease', id)
    redis.call('HSET', 'task:' .. id, 'state', 'success')
    redis.call('EXPIRE', 'task:' .. id, 3600)
    redis.call('SET', 'result:' .. id, ARGV[i + 1], 'EX', 3600)
    settled = settled + 1
  end
end
return settled
"""


class Task(Struct):
    """What a body holds."""

    id: str
    func: str
    args: dict[str, int]
    queue: str
    priority: int = 0
    run_at: float = 0.0
    ttl: float | None = None
    retries: int = 3
    parents: tuple[str, ...] = ()


decode = Decoder(Task).decode


class RedisProbe(Probe):
    """One client, and a loop that keeps two of its connections busy."""

    def __init__(self, url: str) -> None:
        super().__init__(TASKS)
        self.client = Redis.from_url(url)
        self.token = os.urandom(8)

    async def open(self) -> None:
        self.add_script = self.client.register_script(ADD_LUA)
        self.claim_script = self.client.register_script(CLAIM_LUA)
        self.settle_script = self.client.register_script(SETTLE_LUA)

    async def add(self, ids: Sequence[str]) -> None:
        tasks = (Task(id=task_id, func="m:noop", args={"a": 1}, queue="default") for task_id in ids)
        await self.add_script(args=[arg for task in tasks for arg in (task.id, encode(task))])

    async def claim(self, limit: int) -> list[str]:
        now = time.time()
        bodies: list[bytes] = await self.claim_script(args=[limit, now, now + LEASE, self.token])
        return [decode(body).id for body in bodies]

    async def settle(self, batch: Sequence[tuple[str, bytes]]) -> int:
        settled: int = await self.settle_script(args=[self.token, *(arg for pair in batch for arg in pair)])
        return settled


if __name__ == "__main__":
    uvloop.run(RedisProbe(os.environ["BENCH_URL"]).measure())
