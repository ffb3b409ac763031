"""`omniq plugins verify` on plugins that bring workers: the example is one, and passes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conformance.test_verify import LONG, ROOT, verify


def install(packages: Path) -> None:
    """The example as if it were installed."""
    example = ROOT / "examples" / "omniq-inline" / "src" / "omniq_inline"
    shutil.copytree(example, packages / "omniq_inline", ignore=shutil.ignore_patterns("__pycache__"))
    metadata = packages / "omniq_inline-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: omniq-inline\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[omniq.plugins]\ninline = omniq_inline.plugin\n")


@LONG
@pytest.mark.slow
def test_a_worker_of_ones_own_passes(tmp_path: Path) -> None:
    install(tmp_path)
    done = verify("inline", "--json", path=tmp_path)
    report = json.loads(done.stdout)
    assert report["failed"] == report["failures"] == [], done.stdout
    assert done.returncode == 0, done.stderr
    assert len(report["passed"]) > 35
    undeclared = {level["name"] for level in report["levels"] if not level["declared"]}
    assert undeclared == {"isolates", "concurrent", "preempts"}


def test_a_plugin_with_stores_needs_a_place() -> None:
    done = verify("sqlite")
    assert done.returncode == 2
    assert done.stderr == "error: url: the plugin 'sqlite' has stores to verify: say where, with --url\n"
