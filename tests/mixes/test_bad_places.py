"""What is wrong about a store's place is said where it is said, with the name that was meant, and without a secret."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omniq import AsyncOmniQ
from omniq.config import ComponentChoice, ConfigProvider
from omniq.errors import ConfigError, StoreError, UnknownBackend

from tests.mixes.places import CLASSES, VARIABLES, WITH_EVENTS, Fields, Store
from tests.servers.base import free_port

SECRET = "s3cr3t"
URLS = {
    "sqlite": "sqlite:///omniq.db",
    "postgres": f"postgresql://me:{SECRET}@127.0.0.1:5432/db",
    "redis": f"redis://me:{SECRET}@127.0.0.1:6379/0",
    "nats": f"nats://me:{SECRET}@127.0.0.1:4222",
    "file": "file:///omniq",
    "memory": "memory://omniq",
}
WRONG: dict[str, tuple[str, object, str]] = {
    "sqlite": ("busy_timeout", "long", "expected float, got str"),
    "postgres": ("port", "first", "expected int, got str"),
    "redis": ("port", "first", "expected int, got str"),
    "nats": ("port", "first", "expected int, got str"),
    "file": ("fsync", "perhaps", "expected bool, got str"),
    "memory": ("base_dir", 1, "expected str, got int"),
}
"""A value of each store that has the wrong type, and what is said of it."""
MISSPELT = {
    "sqlite": ("pth", "path"),
    "postgres": ("prot", "port"),
    "redis": ("prot", "port"),
    "nats": ("prot", "port"),
    "file": ("fsnc", "fsync"),
    "memory": ("base_dr", "base_dir"),
}
"""A name that isn't known, and the one that was meant."""
SERVERS = ("postgres", "redis", "nats")
"""The stores that have passwords."""
KINDS = [(name, kind) for name in CLASSES for kind in VARIABLES if kind != "event_store" or name in WITH_EVENTS]


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store that nobody connects to."""
    name: str = request.param
    return Store(name, URLS[name], {"username": "me", "password": SECRET} if name in SERVERS else {}, tmp_path)


on_each = pytest.mark.parametrize(("store", "kind"), KINDS, indirect=["store"])


@pytest.fixture(autouse=True)
def no_secret_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert SECRET not in caplog.text


def complaint(call: Callable[[], object], error: type[Exception] = ConfigError) -> str:
    """What is said of a mistake; no line of its traceback shows a secret."""
    with pytest.raises(error) as caught:
        call()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


class TestArguments:
    @on_each
    @pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])
    def test_a_misspelt_one(self, store: Store, kind: str, blocking: bool) -> None:
        component = store.component(kind, blocking=blocking)
        misspelt, meant = MISSPELT[store.name]
        said = complaint(lambda: component(**store.fields, **{misspelt: 1}))
        assert said == f"{component.__name__}: {misspelt}: unknown name, did you mean {meant!r}?"

    @on_each
    def test_one_of_another_type(self, store: Store, kind: str) -> None:
        component = store.component(kind)
        name, value, reason = WRONG[store.name]
        said = complaint(lambda: component(**store.fields, **{name: value}))
        assert said == f"{component.__name__}: {name}: {reason}"

    @pytest.mark.parametrize("store", CLASSES, indirect=True)
    def test_of_a_backend(self, store: Store) -> None:
        misspelt, meant = MISSPELT[store.name]
        name, value, reason = WRONG[store.name]
        backend = store.backend
        said = complaint(lambda: backend(**store.fields, **{misspelt: 1}))
        assert said == f"{backend.__name__}: {misspelt}: unknown name, did you mean {meant!r}?"
        assert complaint(lambda: backend.from_dict({**store.fields, name: value})).endswith(f"{name}: {reason}")

    @pytest.mark.parametrize("port", [0, 65_536, -1, 5432.5, None, True])
    @pytest.mark.parametrize("store", SERVERS, indirect=True)
    def test_ports_that_are_none(self, store: Store, port: object) -> None:
        component = store.component("task_queue")
        assert complaint(lambda: component(port=port)).startswith(f"{component.__name__}: port: expected int")

    def test_a_password_that_is_a_number(self) -> None:
        component = Store("postgres", "", {}, Path()).component("task_queue")
        assert complaint(lambda: component(password=12345)).endswith("password: expected str, got int")


class TestConfigStructs:
    @on_each
    def test_a_misspelt_one(self, store: Store, kind: str) -> None:
        misspelt, _ = MISSPELT[store.name]
        said = complaint(lambda: store.config(kind)(**store.fields, **{misspelt: 1}), TypeError)
        assert misspelt in said

    @on_each
    def test_one_of_another_type_is_found_where_it_is_used(self, store: Store, kind: str) -> None:
        name, value, reason = WRONG[store.name]
        config = store.config(kind)(**store.fields, **{name: value})
        assert complaint(lambda: store.component(kind).from_config(config)).endswith(f": {name}: {reason}")

    def test_another_store_s(self) -> None:
        sqlite, redis = (Store(name, "", {}, Path()) for name in ("sqlite", "redis"))
        config = sqlite.config("task_queue")(base_dir="here")
        said = complaint(lambda: redis.component("task_queue").from_config(config))
        assert said == "config: expected RedisTaskQueueConfig, got SQLiteTaskQueueConfig"


def choose(store: Store, kind: str, config: Fields, form: str) -> Callable[[], object]:
    """`type` and `config` in a dict or in YAML."""
    data: dict[str, Any] = {kind: {"type": store.name, "config": {**store.fields, **config}}}
    if form == "dict":
        return lambda: AsyncOmniQ.from_dict(data)
    path = store.folder / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    return lambda: AsyncOmniQ.from_config_file(path)


@on_each
@pytest.mark.parametrize("form", ["dict", "yaml"])
class TestTypeAndConfig:
    def test_a_misspelt_option(self, store: Store, kind: str, form: str) -> None:
        misspelt, meant = MISSPELT[store.name]
        said = complaint(choose(store, kind, {misspelt: 1}, form))
        assert said == f"{kind}.config.{misspelt}: unknown name, did you mean {meant!r}?"

    def test_one_of_another_type(self, store: Store, kind: str, form: str) -> None:
        name, value, reason = WRONG[store.name]
        assert complaint(choose(store, kind, {name: value}, form)) == f"{kind}.config.{name}: {reason}"


@pytest.mark.parametrize("kind", VARIABLES)
def test_a_misspelt_type(kind: str) -> None:
    said = complaint(lambda: AsyncOmniQ.from_dict({kind: {"type": "postgrs"}}), UnknownBackend)
    assert said.startswith(f"{kind}.type: unknown backend 'postgrs', did you mean 'postgres'?")


@pytest.mark.parametrize("name", ["redis", "nats"])
def test_some_keep_no_events(name: str) -> None:
    said = complaint(lambda: AsyncOmniQ.from_dict({"event_store": {"type": name}}), UnknownBackend)
    assert said == f"event_store.type: {name!r} provides no event store; installed: file, memory, postgres, sqlite"
    sqlite, other = (Store(each, "", {}, Path()).backend() for each in ("sqlite", name))
    said = complaint(lambda: AsyncOmniQ.from_backend(sqlite, event_store_backend=other))
    assert said == f"event_store: {name} keeps no events"
    assert AsyncOmniQ.from_backend(other).event_store is None


class TestVariables:
    @pytest.fixture
    def said(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        """What is said of a URL, and perhaps a type, in the environment."""

        def say(kind: str, url: str, type_: str | None = None, error: type[Exception] = ConfigError) -> str:
            monkeypatch.setenv(f"{VARIABLES[kind]}_URL", url)
            if type_ is not None:
                monkeypatch.setenv(f"{VARIABLES[kind]}_TYPE", type_)
            return complaint(AsyncOmniQ, error)

        return say

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("postgresql://me:s3cr3t@h/db?schme=x", ".schme: unknown name, did you mean 'schema'?"),
            ("redis://:s3cr3t@h?prefx=x", ".prefx: unknown name, did you mean 'prefix'?"),
            ("nats://s3cr3t@h?prefx=x", ".prefx: unknown name, did you mean 'prefix'?"),
            ("sqlite:///x.db?synchronos=FULL", ".synchronos: unknown name, did you mean 'synchronous'?"),
            ("memory://x?base_dr=y", ".base_dr: unknown name, did you mean 'base_dir'?"),
        ],
    )
    def test_a_misspelt_option(self, said: Callable[..., str], url: str, message: str) -> None:
        assert said("result_store", url) == f"result_store.url{message}"

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("postgresql://me:s3cr3t@h:first/db", "task_queue.url: the host, port or query can't be read"),
            ("postgresql://me:s3cr3t@h/db?port=first", "task_queue.url.port: expected int, got str"),
            ("postgresql://me:s3cr3t@h:70000/db", "task_queue.url: the host, port or query can't be read"),
            ("redis://me:s3cr3t@h:first", "task_queue.url: expected redis://"),
            ("redis://me:s3cr3t@h?port=first", "task_queue.url.port: expected int, got str"),
            ("redis://me:s3cr3t@h:70000", "task_queue.url: expected redis://"),
            ("nats://me:s3cr3t@h:first", "task_queue.url: expected nats://"),
            ("nats://me:s3cr3t@h?port=first", "task_queue.url.port: expected int, got str"),
            ("nats://me:s3cr3t@h:70000", "task_queue.url: expected nats://"),
            ("sqlite:///x.db?busy_timeout=long", "task_queue.url.busy_timeout: expected float, got str"),
            ("file:///x?fsync=perhaps", "task_queue.url.fsync: expected bool, got str"),
        ],
    )
    def test_a_number_that_is_none(self, said: Callable[..., str], url: str, message: str) -> None:
        assert said("task_queue", url).startswith(message)

    def test_another_store_s_scheme(self, said: Callable[..., str]) -> None:
        assert said("task_queue", URLS["redis"], "postgres") == (
            "task_queue.url: redis:// doesn't fit type 'postgres', which takes postgresql:// or postgres://"
        )

    @pytest.mark.parametrize(
        ("scheme", "meant"),
        [
            ("postgress", "'postgres'"),
            ("redsi", "'redis'"),
            ("ants", "'nats'"),
            ("flie", "'file'"),
            ("sqllite", "'sqlite'"),
        ],
    )
    def test_a_misspelt_scheme(self, said: Callable[..., str], scheme: str, meant: str) -> None:
        text = said("task_queue", f"{scheme}://me:{SECRET}@h/db", error=UnknownBackend)
        assert text.startswith(f"task_queue.url: unknown backend {scheme!r}, did you mean {meant}?")

    def test_events_in_redis(self, said: Callable[..., str]) -> None:
        text = said("event_store", URLS["redis"], error=UnknownBackend)
        assert text == "event_store.url: 'redis' provides no event store; installed: file, memory, postgres, sqlite"

    def test_no_url(self, said: Callable[..., str]) -> None:
        assert said("event_store", f"me:{SECRET}@h/db").startswith("event_store.url: expected a URL such as ")


class TestSecrets:
    @pytest.mark.parametrize(("store", "kind"), [pair for pair in KINDS if pair[0] in SERVERS], indirect=["store"])
    def test_nothing_shows_them(self, store: Store, kind: str) -> None:
        config = store.config(kind)
        components = [store.component(kind, blocking=blocking).from_url(store.url) for blocking in (False, True)]
        choices = [ComponentChoice(url=store.url), ComponentChoice(type=store.name, config=store.fields)]
        loaded = [ConfigProvider({kind: choice}, environ={}).load() for choice in choices]
        backend = store.backend.from_url(store.url)
        shown = [*components, config.from_url(store.url), *choices, *loaded, backend, backend.config]
        shown += [getattr(component, "aio", component).store.location for component in components]
        assert config.from_url(store.url).password == SECRET
        assert not [text for text in map(repr, shown) if SECRET in text]

    @pytest.mark.parametrize("store", SERVERS, indirect=True)
    async def test_a_server_that_can_t_be_reached(self, store: Store) -> None:
        component = store.component("task_queue")(host="127.0.0.1", port=free_port(), **store.fields)
        with pytest.raises(StoreError) as caught:
            await component.connect()
        assert SECRET not in "".join(traceback.format_exception(caught.value))
