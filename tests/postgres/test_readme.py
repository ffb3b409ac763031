"""The README's program runs and prints what it shows, on the tests' server."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.postgres import shared_url

if TYPE_CHECKING:
    from omniq_postgres.opening import Connection

README = Path(__file__).parents[2] / "omniq-postgres" / "README.md"
URL = "postgresql://postgres@localhost/postgres"


async def test_its_program_prints_what_it_shows(connection: Connection, tmp_path: Path) -> None:
    text = README.read_text("utf-8")
    (program,) = re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (output,) = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert URL in program
    script = tmp_path / "readme.py"
    script.write_text(program.replace(URL, shared_url()), "utf-8")
    process = await asyncio.create_subprocess_exec(sys.executable, script, stdout=PIPE, stderr=PIPE)
    printed, complaints = await asyncio.wait_for(process.communicate(), 60)
    await connection.execute("drop schema if exists omniq_shop cascade")
    assert (printed.decode(), complaints.decode()) == (output, "")
