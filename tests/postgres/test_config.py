"""Where a PostgreSQL store is said to be: fields, URLs, schemas, and no secrets in anything that can be read."""

from __future__ import annotations

import pytest
from omniq.backend import PostgresBackend
from omniq.errors import ConfigError
from omniq.queue import AsyncPostgresTaskQueue
from omniq_postgres.config import (
    MAX_IDENTIFIER,
    PostgresEventStorageConfig,
    PostgresResultStorageConfig,
    PostgresTaskQueueConfig,
    schema_of,
)
from omniq_postgres.opening import _addresses
from omniq_postgres.queue import PostgresQueueStore

SECRET = "s3cr3t/?#"
QUOTED = "s3cr3t%2F%3F%23"


class TestUrls:
    @pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
    def test_a_url_says_it_all(self, scheme: str) -> None:
        config = PostgresTaskQueueConfig.from_url(
            f"{scheme}://me%40home:{QUOTED}@db.example:5433/my%20db?schema=jobs&pool_size=2&notify=false&timeout=1.5"
        )
        assert (config.username, config.password, config.host, config.port) == ("me@home", SECRET, "db.example", 5433)
        assert (config.database, config.schema, config.pool_size) == ("my db", "jobs", 2)
        assert (config.notify, config.timeout) == (False, 1.5)

    def test_what_a_url_leaves_out_has_defaults(self) -> None:
        config = PostgresTaskQueueConfig.from_url("postgresql://")
        assert config == PostgresTaskQueueConfig()
        assert config.settings.location == "postgres:localhost:5432/postgres/omniq"

    def test_the_database_is_named_as_the_user(self) -> None:
        assert PostgresTaskQueueConfig.from_url("postgresql://shop@h").settings.database == "shop"

    def test_several_hosts_are_tried_in_turn(self) -> None:
        settings = PostgresTaskQueueConfig.from_url("postgresql://a,b:5433,[::1]:5434/db").settings
        assert _addresses(settings) == (["a", "b", "::1"], [5432, 5433, 5434])

    def test_a_socket_is_a_host_too(self) -> None:
        settings = PostgresTaskQueueConfig.from_url("postgresql:///db?host=/var/run/postgresql&port=5433").settings
        assert _addresses(settings) == (["/var/run/postgresql"], [5433])

    @pytest.mark.parametrize(
        ("url", "host", "port"),
        [
            ("postgresql://u@%2Ftmp%2FPg/db", "/tmp/Pg", 5432),
            ("postgresql://u:p@%2Ftmp%2FPg:5433/db", "/tmp/Pg", 5433),
            ("postgresql://u@%2Ftmp%2FPg,%2Fvar:5434/db", "/tmp/Pg,/var:5434", 5432),
        ],
    )
    def test_a_socket_may_be_written_as_a_host(self, url: str, host: str, port: int) -> None:
        config = PostgresTaskQueueConfig.from_url(url)
        assert (config.host, config.port, config.database) == (host, port, "db")

    @pytest.mark.parametrize("config", [PostgresResultStorageConfig, PostgresEventStorageConfig])
    def test_all_three_take_the_same(
        self, config: type[PostgresResultStorageConfig] | type[PostgresEventStorageConfig]
    ) -> None:
        url = f"postgresql://u:{QUOTED}@h:1/d?schema=s&sslmode=require&statement_cache_size=0"
        assert config.from_url(url).settings == PostgresTaskQueueConfig.from_url(url).settings

    @pytest.mark.parametrize(
        ("url", "complaint"),
        [
            ("mysql://h/d", "url: expected postgresql://"),
            (f"postgresql://u:{SECRET}@h:port/d", "url: the host, port or query can't be read"),
            ("postgresql://h/d?scheme=x", "url.scheme: unknown name, did you mean 'schema'"),
            ("postgresql://h/d?pool_size=0", "pool_size"),
            ("postgresql://h/d?schema=a%22b", "schema"),
            ("postgresql://h/d?sslmode=maybe", "sslmode"),
        ],
    )
    def test_another_url_is_refused(self, url: str, complaint: str) -> None:
        with pytest.raises(ConfigError, match=complaint) as error:
            PostgresTaskQueueConfig.from_url(url)
        assert SECRET not in str(error.value)


class TestSchemas:
    def test_each_project_has_its_own(self) -> None:
        names = ["default", "shop", "Shop", "a_b", "x" * 64, "x" * 63 + "y"]
        schemas = [schema_of(name) for name in names]
        assert schemas[:4] == ["omniq", "omniq_shop", "omniq_Shop", "omniq_a_b"]
        assert len(set(schemas)) == len(names)
        assert max(map(len, schemas)) <= MAX_IDENTIFIER

    def test_a_given_one_is_used_as_it_is(self) -> None:
        assert PostgresTaskQueueConfig(project_name="shop", schema="jobs").settings.schema == "jobs"


class TestSecrets:
    def test_a_password_is_nowhere_to_be_seen(self) -> None:
        config = PostgresTaskQueueConfig(password=SECRET)
        backend = PostgresBackend(password=SECRET)
        queue = AsyncPostgresTaskQueue(password=SECRET)
        for shown in (config, config.settings, backend, queue, PostgresQueueStore(config).location):
            assert SECRET not in repr(shown)


def test_results_go_where_the_queue_is() -> None:
    store = PostgresQueueStore(PostgresTaskQueueConfig(project_name="shop", host="h", port=1, schema="jobs"))
    assert store.result_storage().location == store.location == "postgres:h:1/postgres/jobs"
