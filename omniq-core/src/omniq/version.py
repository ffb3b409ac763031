"""The version of omniq-core, read from its metadata so that it is written in one place."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("omniq-core")
