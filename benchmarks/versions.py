"""What an environment runs with: `versions.py PACKAGE …`."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from importlib.metadata import version


def versions(packages: Iterable[str]) -> str:
    """Packages and Python with their versions. Raises `PackageNotFoundError` if one isn't installed."""
    return ", ".join([*(f"{name} {version(name)}" for name in packages), f"Python {platform.python_version()}"])


if __name__ == "__main__":
    print(versions(sys.argv[1:]))
