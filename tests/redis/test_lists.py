"""Lists: each is what going through all tasks would find, and takes no longer the more of these there are."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from itertools import product

import pytest
from msgspec.structs import replace
from omniq.models.task import TaskState
from omniq.storage.records import NEW, Change, NewTask, TaskFilter, TaskRecord
from omniq.testing.builders import claim, new_task, success
from omniq_redis.queue import RedisQueueStore

from tests.redis.support import QUEUE, add_all, elapsed, opened
from tests.servers.redis import RedisServer

QUEUES = ("a", "b", QUEUE)
NAMES = ("", "shop:sell", "shop:größe")
STATES: tuple[tuple[TaskState, ...], ...] = (
    (),
    *((state,) for state in TaskState),
    (TaskState.PENDING, TaskState.SUCCESS),
    (TaskState.ERROR, TaskState.WAITING, TaskState.RUNNING),
    (TaskState.PENDING, TaskState.SCHEDULED, TaskState.WAITING, TaskState.RUNNING),
)
ENDS = (TaskState.SUCCESS, TaskState.ERROR, TaskState.CANCELLED, TaskState.EXPIRED)


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisQueueStore]:
    async with opened(redis_server.url) as store:
        yield store


async def fill(store: RedisQueueStore, chance: random.Random) -> None:
    """Tasks of all queues, names and states, whose ids tell nothing of these."""
    ids = [f"{chance.choice('aBcÄ€')}{number}" for number in range(200)]
    await add_all(
        store,
        [
            replace(new_task(id_, delay=chance.choice([0.0, 0.0, 99.0])), queue_name=queue, name=chance.choice(NAMES))
            for id_, queue in zip(ids, QUEUES * 100, strict=False)
        ],
    )
    await add_all(store, [replace(new_task(f"child-{n}"), depends_on=(ids[0],), name=NAMES[1]) for n in range(5)])
    claimed = await store.claim(QUEUES, limit=100, lease=60.0, worker="w")
    await store.transition([replace(success(each), to=chance.choice(ENDS), result=None) for each in claimed[:90]])


def matches(record: TaskRecord, where: TaskFilter) -> bool:
    return (
        (not where.states or record.state in where.states)
        and where.queue_name in (None, record.queue_name)
        and where.name in (None, record.name)
    )


async def pages(store: RedisQueueStore, where: TaskFilter, limit: int, newest_first: bool) -> list[str]:
    """The ids on all pages."""
    ids: list[str] = []
    cursor = None
    while True:
        page = await store.find(where, newest_first=newest_first, limit=limit, cursor=cursor)
        ids += [record.id for record in page.tasks]
        if (cursor := page.cursor) is None:
            return ids


@pytest.mark.parametrize("newest_first", [False, True])
async def test_each_list_is_what_going_through_all_tasks_finds(store: RedisQueueStore, newest_first: bool) -> None:
    await fill(store, random.Random(7))
    everything = (await store.find(TaskFilter(), limit=1000)).tasks
    assert len(everything) == 205
    for states, queue, name in product(STATES, (None, "a", "unheard-of"), (None, *NAMES[1:], "unheard-of")):
        where = TaskFilter(states=states, queue_name=queue, name=name)
        wanted = sorted((record.id for record in everything if matches(record, where)), reverse=newest_first)
        assert await pages(store, where, 7, newest_first) == wanted, where


async def test_tasks_of_many_kinds_are_listed_in_one_order(store: RedisQueueStore) -> None:
    """Of each kind, a call reads a few only."""
    tasks = [replace(new_task(f"{number:04}"), name=f"f{number % 700}") for number in range(2000)]
    await add_all(store, tasks)
    for newest_first in (False, True):
        ids = await pages(store, TaskFilter(), 150, newest_first)
        assert ids == sorted((task.id for task in tasks), reverse=newest_first)


async def test_one_damaged_record_hides_no_others_of_its_kind(
    redis_server: RedisServer, store: RedisQueueStore
) -> None:
    await add_all(store, [replace(new_task(f"t{number}"), name="f") for number in range(3)])
    await store.add([replace(new_task("other"), queue_name="other", name="g")])
    for record in ("'garbage'", "redis.call('HGET', KEYS[1], 'other')"):
        redis_server.ask("EVAL", f"redis.call('HSET', KEYS[1], 't0', {record})", 1, "{omniq:default}:task")
        assert await pages(store, TaskFilter(name="f"), 10, False) == ["t1", "t2"]
        assert await pages(store, TaskFilter(queue_name=QUEUE, states=(TaskState.PENDING,)), 10, False) == ["t1", "t2"]


@pytest.mark.parametrize("newest_first", [False, True])
async def test_the_tasks_of_a_schedule_are_listed_in_few_calls(
    redis_server: RedisServer, store: RedisQueueStore, newest_first: bool
) -> None:
    tasks = [replace(new_task(f"{number:03}"), schedule_id="s") for number in range(300)]
    await add_all(store, tasks)
    redis_server.ask("CONFIG RESETSTAT")
    page = await store.find(TaskFilter(schedule_id="s"), newest_first=newest_first, limit=100)
    ids = sorted((task.id for task in tasks), reverse=newest_first)
    assert [found.id for found in page.tasks] == ids[:100]
    assert redis_server.ask("INFO", "commandstats")["cmdstat_evalsha"]["calls"] <= 3
    assert await pages(store, TaskFilter(schedule_id="s"), 70, newest_first) == ids


@pytest.mark.parametrize(("position", "raw"), [(1, r"'\9'"), (24, r"struct.pack('>d', 0 / 0)")])
async def test_a_damaged_record_is_listed_by_what_can_be_read_of_it(
    redis_server: RedisServer, store: RedisQueueStore, position: int, raw: str
) -> None:
    """A state that there is none of, and a time that is no number."""
    await store.add([replace(new_task("t", ttl=0.0), name="f", schedule_id="s")])
    spoil = """
        local record, raw = redis.call('HGET', KEYS[1], 't'), RAW
        record = record:sub(1, POSITION - 1) .. raw .. record:sub(POSITION + #raw)
        redis.call('HSET', KEYS[1], 't', record)
    """
    redis_server.ask("EVAL", spoil.replace("RAW", raw).replace("POSITION", str(position)), 1, "{omniq:default}:task")
    for where in (TaskFilter(name="f"), TaskFilter(queue_name=QUEUE), TaskFilter(schedule_id="s", name="f")):
        assert await pages(store, where, 10, False) == ["t"]
    others = (TaskFilter(name="g"), TaskFilter(name="f", states=(TaskState.PENDING,)), TaskFilter(expired=True))
    for where in others:
        assert await pages(store, where, 10, False) == []


@pytest.mark.starvable
async def test_a_rare_task_is_found_as_fast_beside_many_others(store: RedisQueueStore) -> None:
    rare = replace(new_task("zzz"), queue_name="rare", name="rare")
    await store.add([rare])
    wheres = [TaskFilter(name="rare"), TaskFilter(queue_name="rare"), TaskFilter(states=(TaskState.PENDING,))]
    few = [await shortest(store, where) for where in wheres]
    await add_all(store, [new_task(f"{number:06}") for number in range(50_000)])
    while claimed := await claim(store, limit=500):
        await store.transition([replace(success(record), result=None) for record in claimed])
    for where, before in zip(wheres, few, strict=True):
        assert [record.id for record in (await store.find(where)).tasks] == ["zzz"]
        assert await shortest(store, where) < 3 * before + 0.002, where


async def shortest(store: RedisQueueStore, where: TaskFilter) -> float:
    """Seconds of the fastest of some calls."""
    return min([await elapsed(store.find(where)) for _ in range(20)])


# ── unique keys ──────────────────────────────────────────────────────────────


def unique(task_id: str) -> NewTask:
    return replace(new_task(task_id), unique="key")


async def test_a_task_that_is_gone_or_unreadable_holds_no_key(
    redis_server: RedisServer, store: RedisQueueStore
) -> None:
    await store.add([unique("a")])
    redis_server.ask("HSET", "{omniq:default}:task", "a", "garbage")
    assert await store.add([unique("b")]) == [NEW]
    redis_server.ask("HDEL", "{omniq:default}:task", "b")
    assert await store.add([unique("c")]) == [NEW]


async def test_only_the_holder_gives_the_key_up(redis_server: RedisServer, store: RedisQueueStore) -> None:
    await store.add([unique("a")])
    redis_server.ask("HSET", "{omniq:default}:unique", "key", "b")
    assert await store.add([unique("b")]) == [NEW]
    cancel = Change(task_id="a", to=TaskState.CANCELLED, from_states=(TaskState.PENDING,))
    assert [changed.status for changed in await store.transition([cancel])] == ["applied"]
    (answer,) = await store.add([unique("c")])
    assert answer.holder == "b"
