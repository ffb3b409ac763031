"""`import omniq` costs nothing, and every public name is found where the documentation says."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import omniq
import pytest
from omniq import exports
from omniq.exports import FIRST_PARTY, KINDS

LAZY = ("config", "models", "queue", "storage", "workers")
PACKAGES = (*LAZY, "backend", "events", "plugins", "results")
BUILT = ("omniq", "omniq_fsspec", "omniq_gevent", "omniq_nats", "omniq_postgres", "omniq_redis", "omniq_sqlite")
HEAVY = ("asyncio", "click", "dill", "logging", "msgspec", "omniq_sqlite", "pluggy", "sqlite3", "yaml")


def modules() -> list[str]:
    return ["omniq", *(f"omniq.{package}" for package in LAZY)]


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


# ── what isn't imported ──────────────────────────────────────────────────────


def test_import_omniq_loads_nothing_heavy() -> None:
    assert run(f"import sys, omniq; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_no_store_and_no_plugin(package: str) -> None:
    heavy = ("dill", "omniq_sqlite", "pluggy", "sqlite3", "yaml")
    script = f"import sys, omniq.{package}; print([name for name in {heavy} if name in sys.modules])"
    assert run(script) == "[]"


def test_a_name_loads_its_own_module_only() -> None:
    script = """
        import sys
        from omniq.models import SQLiteTaskQueueConfig
        print([name for name in ("sqlite3", "omniq_sqlite.queue", "pluggy", "dill") if name in sys.modules])
    """
    assert run(script) == "[]"


# ── what is found ────────────────────────────────────────────────────────────


def homes(module: str) -> dict[str, str]:
    """Name → "module:name" as a package's `TYPE_CHECKING` block says, which is what type checkers see."""
    tree = ast.parse(Path(inspect.getfile(importlib.import_module(module))).read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in imports
        for alias in node.names
        if alias.name != "*"
    }


def table(module: str) -> dict[str, str]:
    """The same as the package's table says, which is what happens."""
    getter = vars(importlib.import_module(module))["__getattr__"]
    found: dict[str, str] = inspect.getclosurevars(getter).nonlocals["homes"]
    return found


@pytest.mark.parametrize("module", modules())
def test_type_checkers_see_what_is_found(module: str) -> None:
    found = table(module)
    present = {name: home for name, home in found.items() if home.partition(".")[0] in BUILT}
    stores = {name: home for name, home in homes("omniq.exports").items() if name in present}
    assert {**stores, **homes(module)} == present


@pytest.mark.parametrize("module", modules())
def test_every_name_is_where_the_table_says(module: str) -> None:
    for name, home in homes(module).items():
        where, _, attribute = home.partition(":")
        assert getattr(importlib.import_module(module), name) is getattr(importlib.import_module(where), attribute)


@pytest.mark.parametrize("module", modules())
def test_all_lists_the_package_s_own_names(module: str) -> None:
    own = {name for name, home in homes(module).items() if home.startswith("omniq.")}
    package = importlib.import_module(module)
    assert set(package.__all__) == own
    assert own <= set(dir(package))


def test_a_name_that_was_found_is_kept() -> None:
    from omniq import models

    first = models.Task
    assert vars(models)["Task"] is first


def test_type_checkers_see_every_class_of_the_stores_that_are_built() -> None:
    built = {
        name: f"{module}:{name}"
        for extra, ours in FIRST_PARTY.items()
        for name, module in ours.classes(f"omniq_{extra}")
    }
    assert homes("omniq.exports") == {name: home for name, home in built.items() if home.partition(".")[0] in BUILT}


def test_the_classes_of_a_store_follow_the_naming_scheme() -> None:
    assert dict(FIRST_PARTY["sqlite"].classes("omniq_sqlite")) == {
        "SQLiteBackend": "omniq_sqlite.backend",
        **{f"SQLite{kind}Config": "omniq_sqlite.config" for kind in KINDS},
        **{f"{door}SQLite{kind}": f"omniq_sqlite.{module}" for kind, module in KINDS.items() for door in ("", "Async")},
    }
    assert dict(FIRST_PARTY["redis"].classes("omniq_redis")).keys().isdisjoint(["RedisEventStorage"])
    assert dict(FIRST_PARTY["gevent"].classes("omniq_gevent")) == {"GeventPoolWorker": "omniq_gevent.worker"}


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert omniq.__version__ == version("omniq-core")


# ── what isn't there ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("module", "name", "distribution", "extra"),
    [
        ("omniq.queue", "FakeTaskQueue", "omniq-fake", "fake"),
        ("omniq.storage", "FakeResultStorage", "omniq-fake", "fake"),
    ],
)
def test_a_distribution_that_is_missing_is_named_with_the_command_that_installs_it(
    module: str, name: str, distribution: str, extra: str
) -> None:
    _, get, _ = exports.lazy(module, {name: "omniq_fake.queue"})
    with pytest.raises(ImportError) as caught:
        get(name)
    assert str(caught.value) == f'{name} needs {distribution}: pip install "omniq-core[{extra}]"'


@pytest.fixture
def fake_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed, empty `omniq_fake`."""
    package = tmp_path / "omniq_fake"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "omniq_fake"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("import nonexistent_driver", ModuleNotFoundError, "No module named 'nonexistent_driver'"),
        ("from omniq_fake import nothing", ImportError, "cannot import name 'nothing'"),
        ("import omniq_fake.nothing", ModuleNotFoundError, "No module named 'omniq_fake.nothing'"),
        ("1 / 0", ZeroDivisionError, "division by zero"),
        ("def", SyntaxError, "invalid syntax"),
        ("pass", AttributeError, "module 'omniq_fake.queue' has no attribute 'FakeTaskQueue'"),
    ],
)
def test_an_error_inside_an_installed_distribution_surfaces_unchanged(
    fake_distribution: Path, source: str, error: type[Exception], message: str
) -> None:
    (fake_distribution / "queue.py").write_text(source)
    _, get, _ = exports.lazy("omniq.queue", {"FakeTaskQueue": "omniq_fake.queue"})
    with pytest.raises(error, match=message) as caught:
        get("FakeTaskQueue")
    assert "pip install" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        (
            "queue",
            "SQLiteTaskQeue",
            "module 'omniq.queue' has no attribute 'SQLiteTaskQeue', did you mean 'SQLiteTaskQueue'?",
        ),
        ("models", "TaskResults", "module 'omniq.models' has no attribute 'TaskResults', did you mean 'TaskResult'?"),
        ("backend", "SqliteBackend", "did you mean 'SQLiteBackend'?"),
        ("storage", "Xyzzy", "module 'omniq.storage' has no attribute 'Xyzzy'"),
        ("queue", "SQLiteBackend", "module 'omniq.queue' has no attribute 'SQLiteBackend': it is in omniq.backend"),
        ("backend", "PostgresTaskQueueConfig", "it is in omniq.models"),
        ("storage", "GeventPoolWorker", "it is in omniq.workers"),
    ],
)
def test_a_misspelt_name_is_an_attribute_error_with_a_suggestion(module: str, name: str, message: str) -> None:
    package = importlib.import_module(f"omniq.{module}")
    with pytest.raises(AttributeError) as caught:
        getattr(package, name)
    assert message in str(caught.value)
    assert not hasattr(package, name)


def test_protocol_probes_are_answered_without_a_suggestion() -> None:
    with pytest.raises(AttributeError, match=r"^module 'omniq' has no attribute '__versions__'$"):
        omniq.__versions__  # type: ignore[attr-defined]  # noqa: B018


def test_dir_lists_what_is_installed_so_that_everything_it_lists_can_be_had() -> None:
    from omniq import backend

    assert "SQLiteBackend" in dir(backend)
    _, _, names = exports.lazy("omniq.backend", {"FakeBackend": "omniq_fake.backend", "BaseBackend": "omniq.backend"})
    assert "FakeBackend" not in names()
    assert "BaseBackend" in names()
    assert dict(inspect.getmembers(backend))["SQLiteBackend"] is backend.SQLiteBackend
