"""The program on the page about workers is served as the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_program_is_served(tmp_path: Path) -> None:
    program = re.findall(
        r"^```python\n(# shop\.py\n.*?)^```$", (ROOT / "docs/workers.md").read_text("utf-8"), re.M | re.S
    )
    (tmp_path / "shop.py").write_text(program[0])
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OMNIQ_")}
    for command in (["shop.py"], ["-m", "omniq", "worker", "shop:oq", "--burst"]):
        ran = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == 0, ran.stderr
    assert "(thread, 8 slots) serves high, default" in ran.stderr
    assert ran.stderr.strip().endswith(": 1 success")
