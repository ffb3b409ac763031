"""Being woken by other processes, and what goes on when that doesn't work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace
from omniq.storage.wakeups import News
from omniq.testing import VirtualClock
from omniq.testing.builders import claim, new_task, success, until_told
from omniq_postgres.config import PostgresTaskQueueConfig
from omniq_postgres.queue import PostgresQueueStore
from omniq_postgres.watching import payload_of

from tests.postgres.support import QUEUE, database_of, listening, seconds_of, until

pytestmark = pytest.mark.starvable

if TYPE_CHECKING:
    from omniq_postgres.dialect import Connection

LISTENERS = "from pg_stat_activity where query like 'LISTEN%' and query like '%' || $1 || '%'"


@pytest.fixture
async def elsewhere(config: PostgresTaskQueueConfig) -> AsyncIterator[PostgresQueueStore]:
    """A store at the same place under another name, so that this process's own hints don't reach across."""
    store = PostgresQueueStore(replace(config, host=f"{config.host},{config.host}"))
    await store.connect()
    yield store
    await store.close()


async def test_an_add_elsewhere_ends_a_wait_at_once(queue: PostgresQueueStore, elsewhere: PostgresQueueStore) -> None:
    await listening(queue)
    took = []
    for number in range(5):
        waiting = asyncio.create_task(queue.wait(["other", QUEUE], 30))
        await asyncio.sleep(0.05)
        await elsewhere.add([new_task(f"t{number}")])
        took.append(await seconds_of(waiting))
    assert sorted(took)[2] < 0.05


async def test_a_result_elsewhere_ends_a_wait_at_once(queue: PostgresQueueStore, elsewhere: PostgresQueueStore) -> None:
    await listening(queue)
    await elsewhere.add([new_task("t")])
    (record,) = await claim(elsewhere)
    results = queue.result_storage()
    waiting = asyncio.create_task(until_told(results, ["s", "t"], 30))
    await asyncio.sleep(0.05)
    await elsewhere.transition([success(record)])
    assert await seconds_of(waiting) < 0.5
    await results.close()


async def test_other_queues_and_results_end_no_wait(queue: PostgresQueueStore, elsewhere: PostgresQueueStore) -> None:
    results = queue.result_storage()
    await results.hear(0.0)  # from here on, it listens to results, too
    await listening(queue)
    waits = [asyncio.create_task(queue.wait(["other"], 30)), asyncio.create_task(until_told(results, ["other"], 30))]
    await asyncio.sleep(0.05)
    await elsewhere.add([new_task("t")])
    (record,) = await claim(elsewhere)
    await elsewhere.transition([success(record)])
    done, _ = await asyncio.wait(waits, timeout=0.3)
    assert not done
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)
    await results.close()


async def test_a_wait_ends_when_a_delayed_task_comes_due(
    queue: PostgresQueueStore, elsewhere: PostgresQueueStore
) -> None:
    await elsewhere.add([replace(new_task("t"), delay=1.2)])
    await listening(queue)
    waiting = asyncio.create_task(queue.wait([QUEUE], 30))
    assert await claim(queue) == []  # a claim learns when the next one is due
    assert await seconds_of(waiting) < 2
    assert [record.id for record in await claim(queue)] == ["t"]


async def test_who_finds_nothing_while_others_promote_looks_again(
    queue: PostgresQueueStore, config: PostgresTaskQueueConfig, connection: Connection
) -> None:
    await listening(queue)
    lock = f"(hashtext('\"{config.schema_name}\".task'), 0)"
    await connection.fetch(f"select pg_advisory_lock{lock}")
    with VirtualClock() as clock:
        await queue.add([replace(new_task("t"), delay=60.0)])
        clock.advance(61.0)
        assert await claim(queue) == []
        waiting = asyncio.create_task(queue.wait([QUEUE], 30))
        assert await seconds_of(waiting) < 5
        await connection.fetch(f"select pg_advisory_unlock{lock}")
        assert [record.id for record in await claim(queue)] == ["t"]


async def test_when_its_connection_is_killed_it_polls_and_then_listens_again(
    queue: PostgresQueueStore, config: PostgresTaskQueueConfig, connection: Connection
) -> None:
    await listening(queue)
    waiting = asyncio.create_task(queue.wait([QUEUE], 30))
    await asyncio.sleep(0.05)
    killed = await connection.fetch(f"select pg_terminate_backend(pid) {LISTENERS}", config.schema)
    assert len(killed) == 1
    assert await seconds_of(waiting) < 1.1
    assert await seconds_of(listening(queue)) < 2
    assert await connection.fetchval(f"select count(*) {LISTENERS}", config.schema) == 1


async def test_it_may_be_switched_off(config: PostgresTaskQueueConfig, connection: Connection) -> None:
    store = PostgresQueueStore(replace(config, notify=False))
    await store.connect()
    assert await seconds_of(store.wait([QUEUE], 30)) < 1.1
    assert await connection.fetchval(f"select count(*) {LISTENERS}", config.schema) == 0
    assert (await store.guarantees()).push is False
    await store.close()


async def test_what_was_not_told_yet_is_told_at_the_end(
    queue: PostgresQueueStore, elsewhere: PostgresQueueStore
) -> None:
    await listening(queue)
    for number in range(3):  # the first is told at once, the others a little later
        await elsewhere.add([new_task(f"t{number}")])
    await elsewhere.close()
    assert database_of(elsewhere).channel is not None
    await until(lambda: claim(queue))


def test_news_fit_into_a_payload() -> None:
    names = [f"{number:032}" for number in range(1000)]
    two = f'["me",[{{"default":0.0}},["{names[0]}","{names[1]}"],false]]'
    assert payload_of("me", News({QUEUE: 0.0}, names[:2])) == two
    assert payload_of("me", News({QUEUE: 0.0}, names)) == '["me",[{"default":0.0},null,false]]'
    assert payload_of("me", News(dict.fromkeys(names, 0.0))) == '["me",[null,null,false]]'
