"""Who may use a server, and how a client says who it is: passwords, tokens, nkeys, credentials files, TLS, rights."""

from __future__ import annotations

import asyncio
import json
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from omniq import AsyncOmniQ
from omniq.errors import ConfigError, StoreError

from tests.core import tasks
from tests.core.support import SOON, working
from tests.nats.support import lone_store, opened
from tests.servers.nats import NATSServer
from tests.servers.tls import Authority

SECRET = "s3cr3t"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., NATSServer]]:
    """Start a server with these options, and perhaps a configuration of its own; it goes afterwards."""
    started: list[NATSServer] = []

    def begin(*options: str, config: str = "") -> NATSServer:
        if config:
            file = tmp_path / "nats.conf"
            file.write_text(config)
            options = ("-c", str(file), *options)
        server = NATSServer(*options)
        started.append(server)
        server.start()
        return server

    yield begin
    for server in started:
        server.remove()


async def assert_works(url: str) -> None:
    """A task is added, run and waited for there."""
    async with AsyncOmniQ(config={"task_queue": {"url": url}}) as oq, working(oq, "async"):
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
        assert [queue.name for queue in await oq.stats()] == ["default"]


async def assert_refused(url: str, words: str) -> None:
    """Connecting fails with these words, and without a secret."""
    store = lone_store(url)
    with pytest.raises(StoreError) as refused:
        await store.connect()
    assert words in str(refused.value)
    assert SECRET not in str(refused.value)
    await store.close()


async def test_a_user_has_a_password(start: Callable[..., NATSServer]) -> None:
    server = start("--user", "joe", "--pass", SECRET)
    await assert_works(f"nats://joe:{SECRET}@127.0.0.1:{server.port}")
    await assert_refused(f"nats://joe:{SECRET}2@127.0.0.1:{server.port}", "Authorization Violation")
    await assert_refused(server.url, "Authorization Violation")


async def test_a_token_stands_for_a_user(start: Callable[..., NATSServer]) -> None:
    server = start("--auth", SECRET)
    await assert_works(f"nats://{SECRET}@127.0.0.1:{server.port}")
    await assert_refused(f"nats://{SECRET}2@127.0.0.1:{server.port}", "Authorization Violation")


@pytest.mark.parametrize(
    "options",
    [
        "credentials={folder}/none.creds",
        "nkey_seed={folder}/none",
        "ssl=true&ssl_ca_certs={folder}/none",
        "ssl=true&ssl_certfile={folder}/none",
    ],
)
async def test_a_file_that_is_missing_is_told_of(nats_server: NATSServer, tmp_path: Path, options: str) -> None:
    store = lone_store(f"{nats_server.url}?{options.format(folder=tmp_path)}")
    async with asyncio.timeout(SOON):
        with pytest.raises((StoreError, ConfigError)) as refused:
            await store.connect()
        await store.close()
    assert options.partition("{")[0].rpartition("&")[2].removesuffix("=") in str(refused.value)


async def test_a_stream_with_limits_is_refused(nats_server: NATSServer) -> None:
    async with opened(nats_server.url) as store:
        config = (await store._connection.run(store._place.stream.info()))["config"]  # type: ignore[attr-defined]
        await store.drop()
    client = await nats.connect(nats_server.url)
    limited = json.dumps({**config, "max_age": 2_000_000_000, "duplicate_window": 0}).encode()
    made = await client.request(f"$JS.API.STREAM.CREATE.{config['name']}", limited)
    assert "error" not in json.loads(made.data), made.data
    await client.close()
    await assert_refused(nats_server.url, "its max_age is 2000000000, and OmniQ needs 0")


class TestKeys:
    """A client proves that it has a key, which it never sends."""

    @pytest.fixture(autouse=True)
    def library(self) -> None:
        self.nkeys: Any = pytest.importorskip("nkeys", reason="needs nkeys, which has no wheel: pip install nkeys")

    def pair(self, prefix: int) -> Any:
        """A new pair of keys, of a user or the like."""
        return self.nkeys.from_seed(self.nkeys.encode_seed(secrets.token_bytes(32), prefix))

    def signed(self, by: Any, sub: Any, **claims: object) -> str:
        """What one says of another, as a JWT."""
        issuer, subject = (key.public_key.decode() for key in (by, sub))
        said = {"jti": secrets.token_hex(8), "iat": 0, "iss": issuer, "sub": subject, "nats": {"version": 2, **claims}}
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = b".".join(_base64(json.dumps(part).encode()) for part in (head, said))
        return (text + b"." + _base64(by.sign(text))).decode()

    async def test_a_user_has_an_nkey(self, start: Callable[..., NATSServer], tmp_path: Path) -> None:
        user, stranger = self.pair(self.nkeys.PREFIX_BYTE_USER), self.pair(self.nkeys.PREFIX_BYTE_USER)
        for name, key in (("user", user), ("stranger", stranger)):
            (tmp_path / name).write_bytes(bytes(key.seed))
        server = start(config=f"authorization {{ users = [ {{ nkey: {user.public_key.decode()} }} ] }}")
        await assert_works(f"{server.url}?nkey_seed={tmp_path}/user")
        await assert_refused(f"{server.url}?nkey_seed={tmp_path}/stranger", "Authorization Violation")

    async def test_a_user_has_a_file_of_credentials(self, start: Callable[..., NATSServer], tmp_path: Path) -> None:
        operator, user = self.pair(self.nkeys.PREFIX_BYTE_OPERATOR), self.pair(self.nkeys.PREFIX_BYTE_USER)
        account, system = (self.pair(self.nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(2))
        unlimited = dict.fromkeys(("subs", "data", "payload", "conn", "leaf", "imports", "exports"), -1)
        streams = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
        limits = {account: {**unlimited, **streams}, system: unlimited}
        known = [
            f"{key.public_key.decode()}: {self.signed(operator, key, type='account', limits=limits[key])}"
            for key in limits
        ]
        server = start(
            config=f"operator: {self.signed(operator, operator, type='operator')}\n"
            f"system_account: {system.public_key.decode()}\n"
            f"resolver: MEMORY\nresolver_preload: {{ {', '.join(known)} }}\n"
        )
        user_token = self.signed(account, user, type="user", subs=-1, data=-1, payload=-1)
        rule = "------"
        (tmp_path / "user.creds").write_text(
            f"-----BEGIN NATS USER JWT-----\n{user_token}\n{rule}END NATS USER JWT{rule}\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{bytes(user.seed).decode()}\n{rule}END USER NKEY SEED{rule}\n"
        )
        await assert_works(f"{server.url}?credentials={tmp_path}/user.creds")
        await assert_refused(server.url, "Authorization Violation")


def _base64(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


class TestTls:
    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        return Authority(tmp_path / "authority")

    async def test_a_server_shows_its_certificate(
        self, start: Callable[..., NATSServer], authority: Authority, tmp_path: Path
    ) -> None:
        identity = authority.host("localhost")
        server = start("--tls", "--tlscert", str(identity.certificate), "--tlskey", str(identity.key))
        trusting = f"ssl_ca_certs={authority.file}"
        await assert_works(f"tls://localhost:{server.port}?{trusting}")
        await assert_refused(f"tls://127.0.0.1:{server.port}?{trusting}", "give a host that is in it")
        other = Authority(tmp_path / "other")
        await assert_refused(f"tls://localhost:{server.port}?ssl_ca_certs={other.file}", "certificate isn't trusted")
        await assert_refused(f"nats://localhost:{server.port}", "certificate isn't trusted")

    async def test_a_client_shows_its_own(self, start: Callable[..., NATSServer], authority: Authority) -> None:
        identity, client = authority.host("localhost"), authority.client("joe")
        server = start(
            *("--tlsverify", "--tlscert", str(identity.certificate), "--tlskey", str(identity.key)),
            *("--tlscacert", str(authority.file)),
        )
        url = f"tls://localhost:{server.port}?ssl_ca_certs={authority.file}"
        await assert_works(f"{url}&ssl_certfile={client.certificate}&ssl_keyfile={client.key}")
        store = lone_store(f"{url}&timeout=2")
        with pytest.raises(StoreError):
            await store.connect()
        await store.close()

    async def test_a_server_without_tls_is_refused(self, nats_server: NATSServer, authority: Authority) -> None:
        await assert_refused(f"tls://localhost:{nats_server.port}?ssl_ca_certs={authority.file}", "does no TLS")


RIGHTS = """
authorization {
  users = [ {
    user: joe, password: s3cr3t
    permissions {
      publish: ["omniq.shop.>", "$JS.API.STREAM.*.omniq-shop", "$JS.API.STREAM.MSG.GET.omniq-shop",
        "$JS.API.DIRECT.GET.omniq-shop.>"]
      subscribe: ["omniq-news.shop", "_INBOX.>"]
    }
  } ]
}
"""


async def test_the_rights_that_the_page_names_are_enough(start: Callable[..., NATSServer]) -> None:
    server = start(config=RIGHTS)
    url = f"nats://joe:{SECRET}@127.0.0.1:{server.port}"
    await assert_works(f"{url}?project_name=shop")
    await assert_refused(f"{url}?project_name=other&timeout=1", "ermissions")


async def test_a_server_tells_how_often_it_syncs(start: Callable[..., NATSServer], nats_server: NATSServer) -> None:
    async with opened(nats_server.url) as store:
        unknown = await store.guarantees()
        assert (unknown.survives_process_kill, unknown.survives_power_loss) == (True, False)
        assert "sync_interval=unknown: give monitor_url" in unknown.evidence
    is_old = nats_server.told("varz")["version"].startswith("2.9.")
    async with opened(f"{nats_server.url}?monitor_url={nats_server.monitor_url}") as store:
        seldom = await store.guarantees()
        assert not seldom.survives_power_loss
        told = "unknown: a server before 2.10 doesn't tell" if is_old else "120 s"
        assert f"sync_interval={told}" in seldom.evidence
    if is_old:
        return  # it can't be told to sync at once
    always = start(config="jetstream { sync_interval: always }")
    async with opened(f"{always.url}?monitor_url={always.monitor_url}") as store:
        found = await store.guarantees()
        assert found.survives_power_loss
        assert "sync_interval=always" in found.evidence
