"""The `sh` blocks of a page as scripts that a test can run: all commands but those that can't be run, with reasons.

Commands that end only when they are told to (`omniq worker`, `omniq events tail -f`) run beside those that follow,
up to the next such command or the end of the block; then they get a SIGTERM, and must end in order. Words that stand
for something, such as TASK_ID, get what they stand for.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from typing import Final

NOT_RUN: Final[Mapping[str, str]] = {
    r"^docker ": "needs a container engine",
    r"^mkdir \.\./shop && cd \.\./shop$": "the test is in a folder of its own",
    r"^pip install |^(python3 -m venv|\.venv(-uv)?/bin/python -m pip) ": "installs packages",
    r"^\. \.venv/bin/activate": "the test's environment is active",
    r"^(\.venv-uv/bin/)?uv (sync|run pytest)$": "is what CI does",
    r"examples/quickstart/main\.py": "tests/docs/test_quickstart.py runs it",
    r"\bsummary\.py": "tests/docs/test_workflow_example.py runs it",
    r"^(uvicorn|curl) ": "tests/docs/test_examples.py serves it, and asks it",
    r"^cat reports/": "is written once a worker has run the task; tests/docs/test_examples.py reads it then",
    r"^pytest$": "tests/docs/test_examples.py runs the tests of the examples",
    r"^OMNIQ_TEST_MIGRATED=": "takes minutes; CI runs it with fewer tasks",
    r"^uv run python benchmarks/": "takes minutes; tests/docs/test_benchmarks.py gives the programs little to do",
    r"\b(omniq-)?(shelf|lmdb)\b": "needs that distribution installed; tests/docs/test_plugin_page.py installs it",
}
"""Commands that aren't run, as patterns, and why."""

STAND_INS: Final[Mapping[str, str]] = {
    r"\bTASK_ID\b": '"$(omniq tasks list --newest-first --limit 1 --json | first id)"',
    r"\bWORKER\b": '"$(omniq workers --json | first name)"',
    r"\bPID\b": '"$served"',
}
"""Words that stand for the task that was added last, the first worker's name, and the process that was started last."""

SERVES: Final = re.compile(r"^omniq\b.* worker\b(?!.* --burst)|^omniq worker\b(?!.* --burst)|^omniq events tail -f")
OPENING: Final = r"""
set -euo pipefail
served=
first() { python -c 'import json, sys; found = json.load(sys.stdin); print(found[0][sys.argv[1]])' "$1"; }
serve() {
  end
  : >served.txt
  "$@" >served.txt 2>&1 &
  served=$!
  [[ $* == *tail* ]] || until grep -q -e ' serves ' -e 'is live' served.txt; do
    kill -0 $served || { cat served.txt >&2; exit 9; }
    sleep 0.05
  done
}
end() {
  [ -z "$served" ] && return
  until [ -s served.txt ]; do sleep 0.05; done
  kill -TERM $served
  local code=0
  wait $served || code=$?
  served=
  [ $code = 0 ] || [ $code = 143 ] || { cat served.txt >&2; exit $code; }
}
trap 'code=$?; [ -z "$served" ] || kill -KILL $served; exit $code' EXIT
"""


def script(block: str) -> str:
    """A block as a script for bash."""
    lines = [OPENING, *map(_line, commands(block)), "end", ""]
    return "\n".join(lines).replace("8080", str(_free_port()))


def commands(block: str) -> Iterator[str]:
    """The commands of a block that can be run."""
    for line in all_commands(block):
        if not any(re.search(pattern, line) for pattern in NOT_RUN):
            yield line


def all_commands(block: str) -> list[str]:
    """Its commands, each on one line, without comments."""
    lines = (re.sub(r"(^|\s+)# .*", "", line).strip() for line in block.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


def _line(command: str) -> str:
    command = re.sub(r"^uv run (--no-dev )?(?=omniq|python)", "", command)
    for word, found in STAND_INS.items():
        command = re.sub(word, lambda _, found=found: found, command)  # type: ignore[misc]
    return f"serve {command}" if SERVES.match(command) else command


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
