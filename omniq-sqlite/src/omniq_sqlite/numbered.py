"""Parameters by number (`?1`) on the Pythons that take them for names."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Sequence
from typing import Any

TAKEN_FOR_NAMES = (3, 12, 0) <= sys.version_info < (3, 12, 4)
"""Whether this Python warns of a sequence of values for numbered parameters, as if they had names."""


class NamedByNumber(sqlite3.Connection):
    """Passes values on under the names "1", "2", … where a statement numbers its parameters."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if isinstance(parameters, Sequence) and "?1" in sql:
            parameters = {str(number): value for number, value in enumerate(parameters, 1)}
        return super().execute(sql, parameters)


CONNECTION: type[sqlite3.Connection] = NamedByNumber if TAKEN_FOR_NAMES else sqlite3.Connection
