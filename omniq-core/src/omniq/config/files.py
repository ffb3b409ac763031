"""Reading YAML files. Errors say where, and never quote the file, which may hold a password."""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from omniq.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Plain data only; a key that is given twice is an error, not a silent last word."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        return super().construct_object(node, deep=True)  # which refuses aliases that lead into themselves

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True) if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping that a YAML file holds; an empty file is an empty one.

    Raises `ConfigError` naming the file, and line and column of a mistake.
    """
    file = Path(path)
    try:
        data = yaml.load(file.read_text("utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}{_place(error)}: {_problem(error)}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected a mapping at the top, got {type(data).__name__}")
    return data


def _place(error: yaml.YAMLError) -> str:
    mark = error.problem_mark or error.context_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""


def _problem(error: yaml.YAMLError) -> str:
    marked = error.problem or error.context if isinstance(error, yaml.MarkedYAMLError) else None
    return marked or "not YAML text"
