"""The page about testing says what is true: its tests pass, and a failure looks as it shows."""

from __future__ import annotations

import re

import pytest

from tests.docs.test_readme import ROOT, blocks

PAGE = ROOT / "docs" / "testing.md"
NAME_OR_CODE = re.compile(r"^```py\n(?P<code>.*?)^```$|`(?P<name>\w+\.py)`", re.MULTILINE | re.DOTALL)
OPTIONS = ("-p", "no:cacheprovider", "-W", "error", "-o", "asyncio_default_fixture_loop_scope=function")


@pytest.fixture
def files() -> dict[str, str]:
    """The page's code by the file that it belongs to: the one that was named last before it."""
    found: dict[str, str] = {}
    name = ""
    for match in NAME_OR_CODE.finditer(PAGE.read_text("utf-8")):
        if match["code"] is None:
            name = match["name"]
        else:
            found[name] = found.get(name, "") + "\n\n" + match["code"]
    return found


@pytest.fixture
def project(files: dict[str, str], pytester: pytest.Pytester) -> pytest.Pytester:
    for name, code in files.items():
        (pytester.path / name).write_text(code, "utf-8")
    return pytester


def test_its_tests_pass(files: dict[str, str], project: pytest.Pytester) -> None:
    assert sorted(files) == ["conftest.py", "shop.py", "test_async.py", "test_shop.py"]
    tests = sum(code.count("def test_") for code in files.values())
    project.runpytest_subprocess(*OPTIONS, timeout=100).assert_outcomes(passed=tests)


def test_a_failure_looks_as_it_shows(project: pytest.Pytester) -> None:
    failing = project.makepyfile(
        test_failing="""
        import shop

        def test_it(omniq_app):
            shop.sign_up("tom@example.org")
            omniq_app.assert_enqueued(func=shop.send_mail, args=["tim@example.org"])
        """
    )
    ran = project.runpytest_subprocess(*OPTIONS, failing, timeout=100)
    ran.assert_outcomes(failed=1)
    (shown,) = blocks(PAGE, "text")
    ran.stdout.fnmatch_lines([f"*{line.strip()}" for line in shown.splitlines()], consecutive=True)
