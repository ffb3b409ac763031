"""Move every dependency to its newest version and pin it: `constraint-dependencies` in pyproject.toml.

`uv.lock` isn't committed, since it records where packages were downloaded from; this list of names and
versions takes its place. Needs uv on the PATH and Python 3.11, and nothing else.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PINS = re.compile(r"^constraint-dependencies = \[.*?^\]\n", re.MULTILINE | re.DOTALL)
TABLE = "[tool.uv]\n"


def main() -> None:
    """Lock anew without pins, then pin what was locked; the file stays as it was if that fails."""
    pyproject = ROOT / "pyproject.toml"
    before = pyproject.read_text("utf-8")
    unpinned = PINS.sub("", before)
    try:
        pyproject.write_text(unpinned, "utf-8")
        subprocess.run([os.environ.get("UV", "uv"), "lock", "--upgrade"], cwd=ROOT, check=True)
        pins = list(pins_of((ROOT / "uv.lock").read_text("utf-8")))
        pyproject.write_text(with_pins(unpinned, pins), "utf-8")
    except BaseException:
        pyproject.write_text(before, "utf-8")
        raise
    print(f"pinned {len(pins)} packages in {pyproject.name}")


def pins_of(lock: str) -> Iterator[str]:
    """`name==version` for every package of a lock file that isn't ours.

    Where the lock has several versions of one package, each has the markers under which it holds.
    """
    for package in tomllib.loads(lock)["package"]:
        if "registry" in package["source"]:
            pin = f"{package['name']}=={package['version']}"
            markers = package.get("resolution-markers")
            yield f"{pin} ; {' or '.join(markers)}" if markers else pin


def with_pins(pyproject: str, pins: list[str]) -> str:
    """The text of pyproject.toml with these pins at the top of its table for uv."""
    before, table, after = pyproject.partition(TABLE)
    if not table:
        raise SystemExit(f"pyproject.toml has no table {TABLE.strip()}")
    quoted = "".join(f'  "{pin}",\n' if '"' not in pin else f"  '{pin}',\n" for pin in pins)
    return f"{before}{table}constraint-dependencies = [\n{quoted}]\n{after}"


if __name__ == "__main__":
    main()
