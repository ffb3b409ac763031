"""The fixtures that pytest finds when omniq-core is installed: in projects of users, with the plugins they have."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

SHOP = """
from omniq import AsyncOmniQ, OmniQ

oq = OmniQ(project_name="shop", task_queue="sqlite:////nowhere/shop.db")
aoq = AsyncOmniQ(project_name="shop", task_queue="sqlite:////nowhere/async.db")


@oq.task()
def greet(name):
    return f"Hello {name}"


@aoq.task()
async def greet_async(name):
    return f"Hello {name}"
"""

BLOCKING = """
import threading

import pytest
import shop


@pytest.mark.parametrize("number", range(6))
def test_one(omniq_sandbox, number, tmp_path_factory):
    app = omniq_sandbox(shop.oq)
    shop.greet.enqueue(number)
    app.assert_enqueued(func=shop.greet, args=[number], count=1)
    assert [run.value for run in app.drain()] == [f"Hello {number}"]


def test_by_itself(omniq_app):
    omniq_app.enqueue(len, ["four"], run_in=60)
    omniq_app.advance(minutes=1)
    assert [run.value for run in omniq_app.drain()] == [4]


def test_nothing_is_left():
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("omniq")]
    assert set(names) <= {"omniq-portal"} and len(names) <= 1
"""

ASYNC = """
import pytest
import shop

MARK

async def test_by_itself(omniq_async_app):
    await omniq_async_app.enqueue(len, ["four"])
    assert [run.value for run in await omniq_async_app.drain()] == [4]


@pytest.mark.parametrize("number", range(3))
async def test_of_a_program(omniq_async_sandbox, number):
    app = omniq_async_sandbox(shop.aoq, eager=True)
    task_id = await shop.greet_async.enqueue(number)
    app.assert_enqueued(func=shop.greet_async, args=[number], state="success", count=1)
    assert await shop.greet_async.result(task_id) == f"Hello {number}"
"""

PLUGINS = ("-p", "no:cacheprovider", "-W", "error", "-o", "asyncio_default_fixture_loop_scope=function")


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(shop=SHOP)
    pytester.syspathinsert()
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    """In a process of its own, as a user would."""
    return project.runpytest_subprocess(*PLUGINS, *options, timeout=100)


def test_the_fixtures_are_there_by_themselves(project: pytest.Pytester) -> None:
    project.makepyfile(test_shop=BLOCKING)
    run(project).assert_outcomes(passed=8)


def test_side_by_side(project: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    project.makepyfile(test_shop=BLOCKING)
    run(project, "-n", "2").assert_outcomes(passed=8)


@pytest.mark.parametrize(
    ("plugin", "mark", "options"),
    [
        ("pytest_asyncio", "", ("-o", "asyncio_mode=auto")),
        ("pytest_asyncio", "pytestmark = pytest.mark.asyncio", ("-o", "asyncio_mode=strict")),
        ("anyio", "pytestmark = pytest.mark.anyio", ("-p", "no:asyncio", "-W", "ignore::pytest.PytestConfigWarning")),
    ],
    ids=["asyncio, auto", "asyncio, strict", "anyio"],
)
def test_in_async_tests(project: pytest.Pytester, plugin: str, mark: str, options: tuple[str, ...]) -> None:
    pytest.importorskip(plugin)
    project.makepyfile(test_shop=ASYNC.replace("MARK", mark))
    project.makeconftest("import pytest\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n")
    run(project, *options).assert_outcomes(passed=4)


def test_a_project_overrides_the_fixture(project: pytest.Pytester) -> None:
    project.makeconftest(
        "import pytest, shop\n\n@pytest.fixture\ndef omniq_app(omniq_sandbox):\n    return omniq_sandbox(shop.oq)\n"
    )
    project.makepyfile(
        """
        import shop

        def test_it(omniq_app):
            shop.greet.enqueue('Tom')
            assert len(omniq_app.drain()) == 1
        """
    )
    run(project).assert_outcomes(passed=1)


def test_a_failure_of_the_test_shows_what_was_enqueued(project: pytest.Pytester) -> None:
    project.makepyfile(
        "import shop\n\ndef test_it(omniq_sandbox):\n    app = omniq_sandbox(shop.oq)\n    shop.greet.enqueue('Tom')\n"
        "    app.assert_enqueued(func=shop.greet, args=['Tim'])\n"
    )
    ran = run(project)
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["*1. shop:greet('Tom') in queue 'default', pending", "*name: 'Tom', expected 'Tim'"])


def test_nothing_is_imported_unless_a_fixture_is_used(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import sys

        def test_it():
            names = {name for name in sys.modules if name.partition(".")[0] in ("omniq", "msgspec", "dill", "croniter")}
            assert names == {"omniq", "omniq.exports", "omniq.testing", "omniq.testing.pytest_plugin"}
        """
    )
    run(project).assert_outcomes(passed=1)


def test_omniq_testing_needs_no_pytest() -> None:
    program = (
        "import sys; sys.modules['pytest'] = None\n"
        "from omniq.testing import Sandbox\n"
        "with Sandbox() as app:\n"
        "    app.enqueue(len, ['four'])\n"
        "    print([run.value for run in app.drain()])\n"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("[4]\n", "")


def test_it_is_declared_once() -> None:
    (found,) = [point for point in entry_points(group="pytest11") if point.name == "omniq"]
    assert found.value == "omniq.testing.pytest_plugin"
