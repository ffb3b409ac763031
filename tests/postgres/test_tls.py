"""PostgreSQL by TLS: what is let in, what is refused and with which words, and that push comes through it too."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ssl import SSLContext
from urllib.parse import urlsplit

import pytest
from msgspec.structs import replace
from omniq import AsyncOmniQ, OmniQ
from omniq.backend import PostgresBackend
from omniq.errors import StoreUnavailable
from omniq.queue import AsyncPostgresTaskQueue, PostgresTaskQueue
from omniq.testing.builders import new_task
from omniq_postgres.config import PostgresTaskQueueConfig
from omniq_postgres.queue import PostgresQueueStore

from tests.postgres.support import PATIENCE, QUEUE, listening, seconds_of
from tests.servers.postgres import URL_VARIABLE, with_options
from tests.servers.tls import Authority, TlsProxy, address_of, postgres_opening

PASSWORD = "s3cr3t"
HOST = "localhost"
ELSEWHERE = "db.example.org"
MISSING = f"{__file__}.pem"


def double(number: int) -> int:
    return 2 * number


@contextmanager
def proxy_to(url: str, context: SSLContext) -> Iterator[TlsProxy]:
    """A server that does TLS, before the one at the URL."""
    with TlsProxy(address_of(url), context, postgres_opening) as proxy:
        yield proxy


def at(proxy: TlsProxy, url: str, **options: object) -> str:
    """The URL by way of the proxy. The server lets in anybody, so the password is only there to be hidden."""
    user = urlsplit(url).username
    return with_options(urlsplit(url)._replace(netloc=f"{user}:{PASSWORD}@{HOST}:{proxy.port}").geturl(), **options)


@pytest.fixture
def proxy(authority: Authority, postgres_url: str) -> Iterator[TlsProxy]:
    with proxy_to(postgres_url, authority.server(HOST)) as proxy:
        yield proxy


@pytest.fixture
def config(proxy: TlsProxy, authority: Authority, postgres_url: str) -> PostgresTaskQueueConfig:
    url = at(proxy, postgres_url, sslmode="verify-full", sslrootcert=authority.file)
    return PostgresTaskQueueConfig.from_url(url)


@pytest.fixture
async def store(config: PostgresTaskQueueConfig) -> AsyncIterator[PostgresQueueStore]:
    store = PostgresQueueStore(config)
    await store.connect()
    yield store
    await store.close()


async def assert_works(oq: AsyncOmniQ) -> None:
    async with oq:
        await oq.start_worker()
        assert await oq.get_result(await oq.enqueue(double, [21]), timeout=PATIENCE) == 42


async def connects(url: str) -> None:
    store = PostgresQueueStore(PostgresTaskQueueConfig.from_url(url))
    try:
        await store.connect()
    finally:
        await store.close()


async def refusal(url: str) -> str:
    """Why the connection isn't made. No secret is in it, nor in what it came from."""
    with pytest.raises(StoreUnavailable) as refused:
        await connects(url)
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))
    return str(refused.value)


class TestWaysToAskForIt:
    async def test_a_url(self, proxy: TlsProxy, authority: Authority, postgres_url: str) -> None:
        url = at(proxy, postgres_url, sslmode="verify-full", sslrootcert=authority.file)
        await assert_works(AsyncOmniQ(config={"task_queue": {"url": url}}))
        assert proxy.served >= 2  # for statements, and to listen

    async def test_a_constructor(self, proxy: TlsProxy, config: PostgresTaskQueueConfig) -> None:
        queue = AsyncPostgresTaskQueue(
            host=HOST,
            port=proxy.port,
            schema=config.schema,
            sslmode="verify-full",
            sslrootcert=config.sslrootcert,
        )
        await assert_works(AsyncOmniQ(task_queue=queue))

    async def test_a_config_struct(self, config: PostgresTaskQueueConfig) -> None:
        await assert_works(AsyncOmniQ(task_queue=AsyncPostgresTaskQueue.from_config(config)))

    async def test_a_backend(self, config: PostgresTaskQueueConfig) -> None:
        backend = PostgresBackend.from_config(config)
        assert PASSWORD not in repr(backend)
        await assert_works(AsyncOmniQ.from_backend(backend))

    def test_the_blocking_front_door(self, proxy: TlsProxy, config: PostgresTaskQueueConfig) -> None:
        with OmniQ(task_queue=PostgresTaskQueue.from_config(config)) as oq:
            oq.start_worker()
            assert oq.get_result(oq.enqueue(double, [21]), timeout=PATIENCE) == 42
            oq.stop_worker()
        assert proxy.served >= 2


class TestTrust:
    async def test_an_unknown_authority_is_refused(
        self, proxy: TlsProxy, stranger: Authority, postgres_url: str
    ) -> None:
        for mode in ("require", "verify-ca", "verify-full"):
            words = await refusal(at(proxy, postgres_url, sslmode=mode, sslrootcert=stranger.file))
            assert "isn't trusted" in words
            assert "sslrootcert" in words
        assert proxy.served == 0

    async def test_another_host_is_refused_by_verify_full_alone(self, authority: Authority, postgres_url: str) -> None:
        with proxy_to(postgres_url, authority.server(ELSEWHERE)) as proxy:
            words = await refusal(at(proxy, postgres_url, sslmode="verify-full", sslrootcert=authority.file))
            assert "is for another host" in words
            assert "verify-ca" in words
            await connects(at(proxy, postgres_url, sslmode="verify-ca", sslrootcert=authority.file))

    async def test_a_certificate_that_ran_out_is_refused(self, authority: Authority, postgres_url: str) -> None:
        yesterday = datetime.now(UTC) - timedelta(days=1)
        with proxy_to(postgres_url, authority.server(HOST, until=yesterday)) as proxy:
            words = await refusal(at(proxy, postgres_url, sslmode="verify-full", sslrootcert=authority.file))
        assert "isn't valid: certificate has expired" in words

    async def test_require_without_an_authority_trusts_anybody(self, proxy: TlsProxy, postgres_url: str) -> None:
        await connects(at(proxy, postgres_url, sslmode="require"))
        assert proxy.served >= 1

    async def test_verifying_needs_an_authority(
        self, proxy: TlsProxy, postgres_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", "/nowhere")  # where the driver would look for one
        assert "sslrootcert" in await refusal(at(proxy, postgres_url, sslmode="verify-full"))

    async def test_a_server_without_tls_is_refused(self, postgres_url: str) -> None:
        if URL_VARIABLE in os.environ:
            pytest.skip(f"needs a server without TLS, and {URL_VARIABLE} names one that may have it")
        words = await refusal(with_options(postgres_url, sslmode="require"))
        assert "the server does no TLS" in words
        assert "sslmode=prefer" in words
        await connects(with_options(postgres_url, sslmode="prefer"))


class TestOwnCertificates:
    async def test_one_that_is_asked_for_opens(self, authority: Authority, postgres_url: str) -> None:
        me = authority.client("worker")
        with proxy_to(postgres_url, authority.demanding_server(HOST)) as proxy:
            url = at(proxy, postgres_url, sslmode="verify-full", sslrootcert=authority.file)
            await connects(with_options(url, sslcert=me.certificate, sslkey=me.key))
            assert HOST in await refusal(url)  # the rest is the server's own: this one only hangs up

    async def test_a_strange_key_is_told_without_its_content(
        self, proxy: TlsProxy, authority: Authority, stranger: Authority, postgres_url: str
    ) -> None:
        me, somebody = authority.client("worker"), stranger.client("somebody")
        url = at(proxy, postgres_url, sslmode="require", sslcert=me.certificate, sslkey=somebody.key)
        words = await refusal(url)
        assert "sslkey" in words
        assert somebody.key.read_text().splitlines()[1] not in words

    @pytest.mark.parametrize("option", ["sslrootcert", "sslkey"])
    async def test_a_missing_file_is_named(
        self, proxy: TlsProxy, authority: Authority, postgres_url: str, option: str
    ) -> None:
        given = {"sslcert": authority.client("worker").certificate, option: MISSING}
        words = await refusal(at(proxy, postgres_url, sslmode="require", **given))
        assert words.endswith(f"{option}: there is no file {MISSING}")


class TestPush:
    async def test_it_comes_through_tls(self, store: PostgresQueueStore, postgres_url: str) -> None:
        there = PostgresQueueStore(PostgresTaskQueueConfig.from_url(postgres_url))
        await listening(store)
        for number in range(5):
            waiting = asyncio.create_task(store.wait([QUEUE], 30))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await there.add([new_task(f"t{number}")])
            assert await seconds_of(waiting) < 0.5
            await store.claim([QUEUE], limit=1, lease=30.0, worker="w")
        await there.close()

    async def test_results_come_through_tls(self, config: PostgresTaskQueueConfig, postgres_url: str) -> None:
        plain = {"task_queue": {"url": postgres_url}}
        encrypted = AsyncOmniQ(task_queue=AsyncPostgresTaskQueue.from_config(replace(config, pool_size=1)))
        async with AsyncOmniQ(config=plain) as there, encrypted as here:
            await there.start_worker()
            assert await here.get_result(await here.enqueue(double, [21]), timeout=PATIENCE) == 42
