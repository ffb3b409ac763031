"""What the suite can see of SQLite files beside the store: that nothing is left in them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from omniq.testing.conformance.places import Footprint


async def rows_at(folder: Path) -> dict[str, int]:
    """The tables in all files, by how many rows they have."""
    found: dict[str, int] = {}
    for file in folder.glob("*.db"):
        with closing(sqlite3.connect(file)) as connection:
            names = [name for (name,) in connection.execute("select name from sqlite_schema where type = 'table'")]
            counts = {name: connection.execute(f"select count(*) from {name}").fetchone()[0] for name in names}
            found |= {f"{file}:{name}": count for name, count in counts.items()}
    return found


class Looks:
    """Lets the suite look into the files."""

    @pytest.fixture
    def entries(self, tmp_path: Path) -> Footprint:
        return partial(rows_at, tmp_path)
