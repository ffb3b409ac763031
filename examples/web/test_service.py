"""The service, without a worker and without a server: the queue is in memory, and tasks run when they are told to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from httpx import ASGITransport, AsyncClient
from omniq.testing import AsyncSandbox
from primes import count_primes, oq
from service import app


@pytest.fixture
def queue(omniq_async_sandbox: Callable[..., AsyncSandbox]) -> AsyncSandbox:
    return omniq_async_sandbox(oq)


@pytest.fixture
async def client(queue: AsyncSandbox) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://service") as client:
        yield client


async def test_a_count_is_enqueued_and_told(queue: AsyncSandbox, client: AsyncClient) -> None:
    answer = await client.post("/counts", json={"limit": 100})
    assert answer.status_code == 202
    queue.assert_enqueued(func=count_primes, args=[100], count=1)
    where = answer.json()["result"]
    assert (await client.get(where)).json() == {"status": "pending"}
    await queue.drain()
    assert (await client.get(where)).json() == {"status": "success", "primes": 25}


async def test_events_come_to_an_end(queue: AsyncSandbox, client: AsyncClient) -> None:
    queue.eager = True
    where = (await client.post("/counts", json={"limit": 1000})).json()["events"]
    answer = await client.get(where)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text == 'data: {"status":"success","primes":168}\n\n'


async def test_a_count_is_cancelled(queue: AsyncSandbox, client: AsyncClient) -> None:
    where = (await client.post("/counts", json={"limit": 100})).json()["result"]
    assert (await client.delete(where)).json() == {"cancelled": True}
    assert len(await queue.drain()) == 0
    assert (await client.get(where)).json() == {"status": "cancelled"}


@pytest.mark.parametrize("limit", [0, -1, 10**9, "many", None])
async def test_what_is_no_limit_is_refused(queue: AsyncSandbox, client: AsyncClient, limit: object) -> None:
    assert (await client.post("/counts", json={"limit": limit})).status_code == 422
    queue.refute_enqueued()


async def test_what_is_not_there_is_not_found(client: AsyncClient) -> None:
    for method, path in (("GET", "/counts/none"), ("GET", "/counts/none/events"), ("DELETE", "/counts/none")):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()) == (404, {"detail": "there is no such count"})
