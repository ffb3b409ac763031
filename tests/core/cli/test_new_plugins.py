"""`omniq plugins new`: what it writes is clean and whole, and what can't be written is refused."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.core.plugin_sites import install, omniq

NAMES = ("a", "tray", "x9-a-name-of-letters")
"""The shortest, a usual and the longest."""


def new(at: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return omniq(at, "plugins", "new", *arguments)


# ── what is written ──────────────────────────────────────────────────────────


def test_it_tells_what_it_wrote_and_what_comes_next(tmp_path: Path) -> None:
    (tmp_path / "to there").mkdir()
    told = new(tmp_path, "tray", "--path", "to there")
    assert (told.returncode, told.stderr) == (0, "")
    head, *lines = told.stdout.splitlines()
    assert head == "wrote to there/omniq-tray:"
    written = [line.strip() for line in lines[: lines.index("")]]
    distribution = tmp_path / "to there" / "omniq-tray"
    assert written == sorted(str(path.relative_to(distribution)) for path in distribution.rglob("*") if path.is_file())
    assert {"README.md", "pyproject.toml", "src/omniq_tray/documents.py", "src/omniq_tray/py.typed"} < set(written)
    assert [line.strip() for line in lines[-4:]] == [
        "pip install --editable 'to there/omniq-tray[test]'",
        "pytest 'to there/omniq-tray'",
        "omniq plugins doctor tray",
        "omniq plugins verify tray --url tray:///some/directory",
    ]
    assert [path.name for path in (tmp_path / "to there").iterdir()] == ["omniq-tray"]


def test_names_are_put_everywhere(tmp_path: Path) -> None:
    assert new(tmp_path, "my-tray", "--url-scheme", "box").returncode == 0
    texts = {path: path.read_text() for path in (tmp_path / "omniq-my-tray").rglob("*") if path.is_file()}
    assert [path for path, text in texts.items() if "shelf" in f"{path.name} {text}".lower()] == []
    plugin = (tmp_path / "omniq-my-tray" / "src" / "omniq_my_tray" / "plugin.py").read_text()
    assert 'URL_SCHEMES = ("box",)' in plugin
    assert 'store="omniq_my_tray.stores:MyTrayTasks"' in plugin
    test = (tmp_path / "omniq-my-tray" / "tests" / "test_conformance.py").read_text()
    assert 'return f"box:///{tmp_path}"' in test
    assert len([line for line in test.splitlines() if line]) <= 12


def test_names_that_hold_a_word_of_the_template_are_put_as_they_are(tmp_path: Path) -> None:
    assert new(tmp_path, "bookshelf", "--url-scheme", "shelf").returncode == 0
    texts = {path: path.read_text() for path in (tmp_path / "omniq-bookshelf").rglob("*") if path.is_file()}
    assert [path for path, text in texts.items() if "bookbook" in f"{path} {text}".lower()] == []
    plugin = (tmp_path / "omniq-bookshelf" / "src" / "omniq_bookshelf" / "plugin.py").read_text()
    assert 'NAME = "bookshelf"' in plugin
    assert 'URL_SCHEMES = ("shelf",)' in plugin
    test = (tmp_path / "omniq-bookshelf" / "tests" / "test_conformance.py").read_text()
    assert 'return f"shelf:///{tmp_path}"' in test


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_what_is_written_is_formatted_linted_and_typed(name: str, tmp_path: Path) -> None:
    if missing := [tool for tool in ("mypy", "ruff") if find_spec(tool) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    assert new(tmp_path, name).returncode == 0
    written = tmp_path / f"omniq-{name}"
    tools = [["ruff", "check"], ["ruff", "format", "--check"]]
    if name == NAMES[-1]:  # the types are the same, whatever the name
        tools.append(["mypy", "--strict", "src", "tests"])
    for tool in tools:
        checked = subprocess.run(
            [sys.executable, "-m", *tool], cwd=written, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


# ── what is refused ──────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["My_Tray"], 2, "'My_Tray' can't be a store's name: expected up to 20 lower-case letters and digits"),
        (["My_Tray"], 2, "such as 'my-tray'."),
        (["omniq-tray"], 2, "such as 'tray'."),
        (["9tray"], 2, "a letter first, single dashes between, no omniq- before."),
        (["tray--two"], 2, "such as 'tray-two'."),
        (["t" * 21], 2, "no omniq- before."),
        (["../tray"], 2, "such as 'tray'."),
        ([""], 2, "'' can't be a store's name"),
        (["tray", "--url-scheme", ""], 2, "'' can't be the scheme of a URL"),
        (["sqlite"], 1, "'sqlite' is taken: omniq-sqlite has it; choose another name"),
        (["nats"], 1, "'nats' is taken: omniq-nats has it"),
        (["core"], 1, "'core' is taken: omniq-core has it"),
        (["builtin"], 1, "'builtin' is taken: omniq-core has it"),
        (["gevent"], 1, "'gevent' is taken: omniq-gevent has it"),
        (["taken"], 1, "'taken' is taken: acme-taken has it"),
        (["alias"], 1, "'alias' is taken: acme-taken has it"),
        (
            ["tray", "--url-scheme", "url"],
            1,
            "url:// is taken: acme-taken has it; choose another one with --url-scheme",
        ),
        (["tray", "--url-scheme", "postgresql"], 1, "postgresql:// is taken: omniq-postgres has it"),
        (["tray", "--url-scheme", "my_tray"], 2, "'my_tray' can't be the scheme of a URL"),
        (["tray", "--url-scheme", "tray://"], 2, "'tray://' can't be the scheme of a URL"),
        (["tray", "--path", "nowhere"], 2, "Directory 'nowhere' does not exist"),
        (["here"], 1, "omniq-here is there already; nothing was written"),
        (["link"], 1, "omniq-link is there already; nothing was written"),
    ],
)
def test_what_cannot_be_written_is_refused(arguments: list[str], code: int, complaint: str, tmp_path: Path) -> None:
    plugin = """
        from omniq.plugins import TaskQueueSpec, hookimpl
        @hookimpl
        def omniq_task_queues():
            return [TaskQueueSpec("taken", "a:B", "a:C", aliases=("alias",), url_schemes=("url",))]
    """
    install(tmp_path, "taken", plugin)
    (tmp_path / "omniq-here").mkdir()
    (tmp_path / "omniq-link").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    refused = new(tmp_path, *arguments)
    assert (refused.returncode, refused.stdout) == (code, "")
    assert complaint in refused.stderr
    assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts) == before


def test_nothing_is_left_half_written(tmp_path: Path) -> None:
    command = f"ulimit -f 1; exec {sys.executable} -B -m omniq plugins new tray"
    refused = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr == "error: omniq-tray can't be written: [Errno 27] File too large\n"
    assert list(tmp_path.iterdir()) == []
