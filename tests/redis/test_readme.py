"""The README's program runs and prints what it shows, on a server of the tests."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from tests.servers.redis import RedisServer, redis_server

__all__ = ["redis_server"]

README = Path(__file__).parents[2] / "omniq-redis" / "README.md"
URL = "redis://localhost:6379"


async def test_its_program_prints_what_it_shows(redis_server: RedisServer, tmp_path: Path) -> None:
    text = README.read_text("utf-8")
    (program,) = re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (output,) = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert URL in program
    script = tmp_path / "readme.py"
    script.write_text(program.replace(URL, redis_server.url), "utf-8")
    process = await asyncio.create_subprocess_exec(sys.executable, script, stdout=PIPE, stderr=PIPE)
    printed, complaints = await asyncio.wait_for(process.communicate(), 60)
    assert (printed.decode(), complaints.decode()) == (output, "")
