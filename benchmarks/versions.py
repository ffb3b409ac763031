"""What an environment runs with: `versions.py PACKAGE …`."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


def versions(packages: Iterable[str]) -> str:
    """Packages and Python with their versions."""
    return ", ".join([*(f"{name} {_version(name)}" for name in packages), f"Python {platform.python_version()}"])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    print(versions(sys.argv[1:]))
