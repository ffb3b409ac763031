"""Redis by TLS: what is let in, what is refused and with which words, and that push comes through it too."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.errors import StoreUnavailable
from omniq.queue import AsyncRedisTaskQueue, RedisTaskQueue
from omniq.testing.builders import claim, new_task
from omniq_redis.backend import RedisBackend
from omniq_redis.config import RedisTaskQueueConfig
from omniq_redis.queue import RedisQueueStore

from tests.redis.support import QUEUE, elapsed, listening, opened
from tests.servers.redis import RedisServer
from tests.servers.tls import Authority, TlsProxy, address_of

PASSWORD = "s3cr3t"
HOST = "localhost"
ELSEWHERE = "cache.example.org"
PATIENCE = 10.0
PUSHED = 0.5
"""Seconds within which only a push ends a wait, on a busy machine too."""
MISSING = f"{__file__}.pem"


def double(number: int) -> int:
    return 2 * number


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    """A server that asks for a password."""
    redis_server.ask("CONFIG SET", "requirepass", PASSWORD)
    return redis_server


@pytest.fixture
def proxy(authority: Authority, server: RedisServer) -> Iterator[TlsProxy]:
    with TlsProxy(address_of(server.url), authority.server(HOST)) as proxy:
        yield proxy


@pytest.fixture
def config(proxy: TlsProxy, authority: Authority) -> RedisTaskQueueConfig:
    return RedisTaskQueueConfig.from_url(at(proxy, ssl_ca_certs=authority.file))


def at(proxy: TlsProxy, **options: object) -> str:
    return f"rediss://:{PASSWORD}@{HOST}:{proxy.port}?{urlencode(options)}"


async def assert_works(oq: AsyncOmniQ) -> None:
    async with oq:
        await oq.start_worker()
        assert await oq.get_result(await oq.enqueue(double, [21]), timeout=PATIENCE) == 42


async def refusal(url: str) -> str:
    """Why the connection isn't made. No secret is in it, nor in what it came from."""
    store = RedisQueueStore(RedisTaskQueueConfig.from_url(url))
    with pytest.raises(StoreUnavailable) as refused:
        await store.connect()
    await store.close()
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))
    return str(refused.value)


class TestWaysToAskForIt:
    async def test_a_url(self, proxy: TlsProxy, authority: Authority) -> None:
        await assert_works(AsyncOmniQ(config={"task_queue": {"url": at(proxy, ssl_ca_certs=authority.file)}}))
        assert proxy.served >= 2  # for commands, and to subscribe

    async def test_a_constructor(self, proxy: TlsProxy, authority: Authority) -> None:
        queue = AsyncRedisTaskQueue(
            host=HOST, port=proxy.port, password=PASSWORD, ssl=True, ssl_ca_certs=str(authority.file)
        )
        await assert_works(AsyncOmniQ(task_queue=queue))

    async def test_a_config_struct(self, config: RedisTaskQueueConfig) -> None:
        await assert_works(AsyncOmniQ(task_queue=AsyncRedisTaskQueue.from_config(config)))

    async def test_a_backend(self, config: RedisTaskQueueConfig) -> None:
        backend = RedisBackend.from_config(config)
        assert PASSWORD not in repr(backend)
        await assert_works(AsyncOmniQ.from_backend(backend))

    def test_the_blocking_front_door(self, proxy: TlsProxy, config: RedisTaskQueueConfig) -> None:
        with OmniQ(task_queue=RedisTaskQueue.from_config(config)) as oq:
            oq.start_worker()
            assert oq.get_result(oq.enqueue(double, [21]), timeout=PATIENCE) == 42
            oq.stop_worker()
        assert proxy.served >= 2


class TestTrust:
    async def test_an_unknown_authority_is_refused(self, proxy: TlsProxy, stranger: Authority) -> None:
        for url in (at(proxy), at(proxy, ssl_ca_certs=stranger.file)):
            words = await refusal(url)
            assert "isn't trusted" in words
            assert "ssl_ca_certs" in words
        assert proxy.served == 0

    @pytest.mark.parametrize("place", ["rediss+cluster://{}", "rediss+sentinel://{}/primary"])
    async def test_nor_is_it_trusted_in_a_group_of_servers(
        self, proxy: TlsProxy, stranger: Authority, place: str
    ) -> None:
        user_and_node = f":{PASSWORD}@{HOST}:{proxy.port}"
        await refusal(f"{place.format(user_and_node)}?{urlencode({'ssl_ca_certs': stranger.file})}")
        assert proxy.served == 0

    async def test_another_host_is_refused(self, authority: Authority, server: RedisServer) -> None:
        with TlsProxy(address_of(server.url), authority.server(ELSEWHERE)) as proxy:
            words = await refusal(at(proxy, ssl_ca_certs=authority.file))
        assert "is for another host" in words

    async def test_a_certificate_that_ran_out_is_refused(self, authority: Authority, server: RedisServer) -> None:
        yesterday = datetime.now(UTC) - timedelta(days=1)
        with TlsProxy(address_of(server.url), authority.server(HOST, until=yesterday)) as proxy:
            words = await refusal(at(proxy, ssl_ca_certs=authority.file))
        assert "isn't valid: certificate has expired" in words

    async def test_a_server_without_tls_is_refused(self, server: RedisServer) -> None:
        words = await refusal(f"rediss://:{PASSWORD}@{HOST}:{server.port}?timeout=1")
        assert "leave ssl out" in words


class TestOwnCertificates:
    async def test_one_that_is_asked_for_opens(self, authority: Authority, server: RedisServer) -> None:
        me = authority.client("worker")
        with TlsProxy(address_of(server.url), authority.demanding_server(HOST)) as proxy:
            url = at(proxy, ssl_ca_certs=authority.file, ssl_certfile=me.certificate, ssl_keyfile=me.key)
            async with opened(url):
                assert proxy.served == 1
            await refusal(at(proxy, ssl_ca_certs=authority.file))  # such a server only hangs up
            assert proxy.served == 1

    async def test_a_strange_key_is_told_without_its_content(
        self, proxy: TlsProxy, authority: Authority, stranger: Authority
    ) -> None:
        me, somebody = authority.client("worker"), stranger.client("somebody")
        words = await refusal(
            at(proxy, ssl_ca_certs=authority.file, ssl_certfile=me.certificate, ssl_keyfile=somebody.key)
        )
        assert "ssl_keyfile" in words
        assert somebody.key.read_text().splitlines()[1] not in words

    @pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_keyfile"])
    async def test_a_missing_file_is_named(self, proxy: TlsProxy, authority: Authority, option: str) -> None:
        certificate = authority.client("worker").certificate
        given = {"ssl_certfile": certificate} if option == "ssl_keyfile" else {}
        words = await refusal(at(proxy, **given, **{option: MISSING}))
        assert words.endswith(f"{option}: there is no file {MISSING}")


class TestPush:
    async def test_it_comes_through_tls(
        self, server: RedisServer, config: RedisTaskQueueConfig, authority: Authority, proxy: TlsProxy
    ) -> None:
        plain = f"redis://:{PASSWORD}@127.0.0.1:{server.port}"
        async with opened(at(proxy, ssl_ca_certs=authority.file)) as here, opened(plain) as there:
            await listening(here)
            for _ in range(5):
                waiting = asyncio.create_task(here.wait([QUEUE], 60))
                await asyncio.sleep(0.05)
                assert not waiting.done()
                await there.add([new_task()])
                assert await elapsed(waiting) < PUSHED
                assert len(await claim(here)) == 1
