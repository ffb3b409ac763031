"""Directories in which distributions with plugins are installed, and the command that finds them there."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

HEAD = """
    from omniq.plugins import CommandSpec, TaskQueueSpec, hookimpl
    omniq_api_version = (1, 0)
    @hookimpl
"""


def install(site: Path, name: str, plugin: str, **modules: str) -> None:
    """Install a distribution with one plugin, as an installer would leave it."""
    package = site / f"acme_{name}"
    package.mkdir()
    for module, text in {"__init__": "", "plugin": plugin, **modules}.items():
        (package / f"{module}.py").write_text(textwrap.dedent(text))
    info = site / f"acme_{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-{name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[omniq.plugins]\n{name} = acme_{name}.plugin\n")


def omniq(site: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command where these distributions are installed."""
    return subprocess.run(
        [sys.executable, "-m", "omniq", *arguments],
        env={**os.environ, "PYTHONPATH": str(site), **environ},
        cwd=site,
        capture_output=True,
        text=True,
        timeout=180,
    )
