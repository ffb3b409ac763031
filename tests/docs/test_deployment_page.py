"""The page on deployment: files can be parsed, commands exist, and nobody is killed before the grace period ends."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from omniq.cli.app import COMMANDS, load_command
from omniq.cli.options import duration
from omniq.cli.serving import MARGIN

from tests.docs.test_readme import ROOT, blocks

PAGE = ROOT / "docs" / "deployment.md"
LEFT = 2.0
"""Seconds between the time when a worker is gone at the latest and the time when it is killed."""

# ── what is on the page ──────────────────────────────────────────────────────


def unit(number: int) -> configparser.ConfigParser:
    """The unit of systemd's of that number."""
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(blocks(PAGE, "ini")[number])
    return parser


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile."""
    (text,) = blocks(PAGE, "dockerfile")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines())]


def instruction(wanted: str) -> str:
    (found,) = (rest for word, rest in instructions() if word == wanted)
    return found


def documents() -> list[Any]:
    """The YAML files."""
    return [yaml.safe_load(text) for text in blocks(PAGE, "yml")]


def lists(data: Any) -> Iterator[list[Any]]:
    """All lists in plain data."""
    if isinstance(data, list):
        yield data
    for inner in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from lists(inner)


def container() -> dict[str, Any]:
    """The worker's container in the Deployment."""
    found: dict[str, Any] = documents()[1]["spec"]["template"]["spec"]["containers"][0]
    return found


def commands() -> list[list[str]]:
    """The arguments of every `omniq` on the page."""
    start = shlex.split(unit(0)["Service"]["ExecStart"])
    assert start[0].endswith("/bin/omniq")
    compose = documents()[0]["services"]["worker"]
    texts = "\n".join(rest for _, rest in instructions())
    return [
        start[1:],
        json.loads(instruction("ENTRYPOINT"))[1:] + json.loads(instruction("CMD")),
        json.loads(re.findall(r"CMD (\[.*\])", texts)[0])[1:],
        compose["command"],
        compose["healthcheck"]["test"][2:],
        container()["command"][1:] + container()["args"],
        *(re.findall(r"\[omniq, ([a-z]+)\]", PAGE.read_text("utf-8")),),
    ]


# ── whether it is true ───────────────────────────────────────────────────────


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_command_is_one(arguments: list[str]) -> None:
    assert all(isinstance(argument, str) for argument in arguments)
    spec = next(spec for spec in COMMANDS if spec.name == arguments[0])
    command = load_command(spec)
    with click.Context(click.Group("omniq")), command.make_context(arguments[0], list(arguments[1:])) as context:
        port = context.params.get("health_port", context.params.get("port"))
    assert port in (8080, None)
    assert (port is None) == (arguments == ["health"])


def grace(arguments: list[str]) -> float:
    """Seconds after which a worker that was started so is gone at the latest."""
    return duration(arguments[arguments.index("--grace-period") + 1]) + MARGIN


def test_nobody_is_killed_before_the_grace_period_is_over() -> None:
    systemd, docker, _, compose, _, kubernetes, _ = commands()
    assert float(unit(0)["Service"]["TimeoutStopSec"]) >= grace(systemd) + LEFT
    (stop,) = re.findall(r"docker stop --time (\d+)", PAGE.read_text("utf-8"))
    assert float(stop) >= grace(docker) + LEFT
    assert duration(documents()[0]["services"]["worker"]["stop_grace_period"]) >= grace(compose) + LEFT
    pod = documents()[1]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= grace(kubernetes) + LEFT
    ((proxy,),) = documents()[2:]
    held = float(proxy["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > held >= grace(kubernetes)


def test_systemd_leaves_child_processes_to_the_worker_and_restarts_it() -> None:
    service = unit(0)["Service"]
    assert (service["KillMode"], service["Restart"]) == ("mixed", "on-failure")
    assert float(service["RestartSec"]) >= 1


def test_the_container_is_told_by_sigterm_and_without_a_shell() -> None:
    assert instruction("STOPSIGNAL") == "SIGTERM"
    assert {word for word, _ in instructions()} >= {"FROM", "COPY", "RUN", "USER", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert all(
        isinstance(each, list) for each in (json.loads(instruction("CMD")), json.loads(instruction("ENTRYPOINT")))
    )


def test_the_probes_ask_what_there_is() -> None:
    (port,) = container()["ports"]
    assert port == {"name": "health", "containerPort": 8080}
    probes = {name: container()[name]["httpGet"] for name in container() if name.endswith("Probe")}
    assert probes == {
        "startupProbe": {"path": "/ready", "port": "health"},
        "livenessProbe": {"path": "/live", "port": "health"},
        "readinessProbe": {"path": "/ready", "port": "health"},
    }
    assert container()["args"][-2:] == ["--health-host", "0.0.0.0"]
    labels = documents()[1]["spec"]["selector"]["matchLabels"]
    assert documents()[1]["spec"]["template"]["metadata"]["labels"] == labels


def test_systemd_understands_its_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze here")
    for number, text in enumerate(blocks(PAGE, "ini")):
        here = text.replace("/srv/shop/.venv/bin/omniq", sys.executable).replace("User=shop\n", "")
        file = tmp_path / f"shop-worker-{number}.service"
        file.write_text(here)
        told = subprocess.run([analyze, "verify", "--man=no", str(file)], capture_output=True, text=True, timeout=60)
        assert [line for line in told.stderr.splitlines() if file.name in line] == []
        assert told.returncode == 0, told.stderr
