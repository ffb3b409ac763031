"""The stores' pages say what is true: each option with its default, and each guarantee as the live store gives it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec import NODEFAULT
from msgspec.structs import FieldInfo, fields
from omniq import AsyncOmniQ
from omniq.models.config import ComponentConfig
from omniq.storage.base import Guarantees
from omniq_fsspec.config import FileEventStorageConfig, FileResultStorageConfig, FileTaskQueueConfig
from omniq_nats.config import NATSResultStorageConfig, NATSTaskQueueConfig
from omniq_postgres.config import PostgresEventStorageConfig, PostgresResultStorageConfig, PostgresTaskQueueConfig
from omniq_redis.config import RedisResultStorageConfig, RedisTaskQueueConfig
from omniq_sqlite.config import SQLiteEventStorageConfig, SQLiteResultStorageConfig, SQLiteTaskQueueConfig

from tests.idle.places import place

STORES = Path(__file__).parents[2] / "docs" / "stores"
CONFIGS: Mapping[str, tuple[type[ComponentConfig], ...]] = {
    "sqlite": (SQLiteTaskQueueConfig, SQLiteResultStorageConfig, SQLiteEventStorageConfig),
    "postgres": (PostgresTaskQueueConfig, PostgresResultStorageConfig, PostgresEventStorageConfig),
    "nats": (NATSTaskQueueConfig, NATSResultStorageConfig),
    "redis": (RedisTaskQueueConfig, RedisResultStorageConfig),
    "files": (FileTaskQueueConfig, FileResultStorageConfig, FileEventStorageConfig),
}
"""The configurations of each store; the queue's comes first and has all the fields."""
OF_QUEUES = {"queues", "serializer", "max_body"}
SAID = {True: "yes", False: "no"}

each_store = pytest.mark.parametrize("name", CONFIGS)


def section(name: str, title: str) -> str:
    """What a store's page says under a heading."""
    page = (STORES / f"{name}.md").read_text("utf-8")
    return next(part for part in re.split(r"^## ", page, flags=re.MULTILINE) if part.startswith(f"{title}\n"))


def rows(text: str) -> list[list[str]]:
    """The cells of all rows of the tables in a text."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def option_rows(name: str) -> dict[str, str]:
    """Each option of the page, and what its default is said to be."""
    cells = rows(section(name, "URL and options"))
    return {option.strip("`"): rest[0] for option, *rest in cells if re.fullmatch(r"`\w+`", option)}


def said(default: object) -> str:
    """How a default that isn't None is written. Floats are durations, and have a unit."""
    if isinstance(default, float):
        return f"{default:g} s"
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`"


def default_of(field: FieldInfo) -> object:
    """The value that a field has unless it is given."""
    if field.default_factory is not NODEFAULT:
        return field.default_factory()
    return field.default


def test_every_store_has_a_page() -> None:
    assert {page.stem for page in STORES.glob("*.md")} == set(CONFIGS)


def test_the_pages_have_the_same_headings() -> None:
    headings = [re.findall(r"^## (.*)$", (STORES / f"{name}.md").read_text("utf-8"), re.MULTILINE) for name in CONFIGS]
    without_server = [[heading.removesuffix(" its server").removesuffix(" it") for heading in of] for of in headings]
    assert without_server == [without_server[0]] * len(CONFIGS)


@each_store
def test_the_options_are_the_fields(name: str) -> None:
    queue, *others = CONFIGS[name]
    table = option_rows(name)
    assert set(table) == {field.name for field in fields(queue)}
    for config in others:
        assert {field.name for field in fields(config)} == set(table) - OF_QUEUES


@each_store
def test_the_defaults_are_those_of_the_fields(name: str) -> None:
    """What is None by default is derived from something, in words that the page finds."""
    table = option_rows(name)
    assert all(table.values())
    for config in CONFIGS[name]:
        defaults = {field.name: default_of(field) for field in fields(config)}
        given = {option: said(default) for option, default in defaults.items() if default is not None}
        assert given == {option: table[option] for option in given}


@each_store
async def test_the_guarantees_are_those_of_the_live_store(name: str) -> None:
    promises, *_ = section(name, "What it guarantees").split("\n### ")
    table = {verb.strip("`"): holds for _, verb, holds, _ in rows(promises)[1:]}
    with place(name) as at:
        async with AsyncOmniQ(config={"task_queue": {"url": at.url}}) as oq:
            live = await oq.task_queue.guarantees()
    given = {field: getattr(live, field) for field in Guarantees.__struct_fields__ if field != "evidence"}
    assert table == {field: SAID.get(value, value) for field, value in given.items()}
