"""Reading YAML files. Errors say where, and never quote the file, which may hold a password."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.constructor import ConstructorError

from omniq.config.convert import FromVariable, check_bounds, check_path
from omniq.config.settings import environment
from omniq.errors import ConfigError
from omniq.models.config import is_secret, mask_url, remember_secret

MAX_BYTES: Final = 4 * 1024 * 1024
"""Of a file: reading YAML takes a hundred times as much memory, and a minute."""
_MERGE: Final = "tag:yaml.org,2002:merge"
# What PyYAML's messages quote: by `%r`, so that quotes inside are escaped or of the other kind.
_QUOTED: Final = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_HARMLESS: Final = re.compile(r"""'(?:\W|\\t|<[a-z ]+>)'|"'\"""")
"""Punctuation and names of tokens."""


class _Loader(yaml.SafeLoader):
    """Plain data only; a key that is given twice is an error, not a silent last word."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=True)  # which refuses aliases that lead into themselves
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # `!!int x` and `2024-99-99` fail in their own ways, and quote the value.
            raise ConstructorError(None, None, "a value isn't of its type", node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self._key(key_node)
            if key is not None and key in seen:
                shown = "a key" if node.flow_style or ":" in str(key) else repr(key)
                raise _Mistake(f"{shown} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def _key(self, node: yaml.Node) -> Hashable | None:
        """The key, if it can be compared with others."""
        if node.tag == _MERGE:
            raise _Mistake("merge keys (<<) aren't supported: write it out", node.start_mark)
        key: Hashable = self.construct_object(node, deep=True) if isinstance(node, yaml.ScalarNode) else None
        return key


class _Mistake(ConstructorError):
    """What is wrong, in words of our own: nothing in them needs to be taken out."""

    def __init__(self, problem: str, mark: yaml.Mark | None) -> None:
        super().__init__(None, None, problem, mark)


def load_yaml(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The mapping that a YAML file holds, with its variables filled in; an empty file is an empty one.

    `environ` stands in for the process's environment. Raises `ConfigError` naming the file, and line and column of a
    mistake; or the path and the variable, if one isn't set.
    """
    check_path(path)
    file, name = Path(path), mask_url(os.fspath(path))
    try:
        data = yaml.load(_text_of(file, name), _Loader)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror or error}") from None
    except ValueError as error:
        what = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "not the name of a file"
        raise ConfigError(f"{name}: {what}") from None
    except RecursionError:
        raise ConfigError(f"{name}: it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}{_place(error)}: {_problem(error)}") from None
    check_bounds(data, name)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: expected a mapping at the top, got {type(data).__name__}")
    try:
        filled: dict[str, Any] = _filled(data, environment() if environ is None else environ)
    except ConfigError as error:
        raise ConfigError(f"{error} (in {name})") from None
    return filled


def _text_of(file: Path, name: str) -> str:
    """What the file holds, which may be a pipe or a device without an end."""
    with file.open("rb") as opened:
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{name}: it has more than {MAX_BYTES} bytes, which no configuration needs")
    return data.decode("utf-8")


# ── variables ───────────────────────────────────────────────────────────────


_VARIABLE: Final = re.compile(r"\$\$\{|\$\{(?P<inside>[^}]*)(?P<end>\}?)")
_INSIDE: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)


def _filled(data: Any, environ: Mapping[str, str], path: str = "") -> Any:
    """The data, with `${NAME}` and `${NAME:-default}` in its texts replaced by the variables' values.

    `$${` stands for `${` itself. A variable that is empty has its default, as in a shell. Values of variables whose
    names look like secrets' are masked from then on. Raises `ConfigError` naming path and variable.
    """
    if isinstance(data, dict):
        return {key: _filled(value, environ, f"{path}.{key}" if path else str(key)) for key, value in data.items()}
    if isinstance(data, list):
        return [_filled(value, environ, f"{path}[{number}]") for number, value in enumerate(data)]
    if isinstance(data, str) and "${" in data:
        return FromVariable(_VARIABLE.sub(lambda found: _value(found, environ, path), data))
    return data


def _value(found: re.Match[str], environ: Mapping[str, str], path: str) -> str:
    """What a variable's place is filled with."""
    if found["inside"] is None:
        return "${"
    match = _INSIDE.fullmatch(found["inside"])
    if match is None or not found["end"]:
        raise ConfigError(f"{path}: expected ${{NAME}} or ${{NAME:-default}}; write $${{ for ${{ itself")
    name, default = match["name"], match["default"]
    value = environ.get(name)
    if default is not None:
        value = value or default
    if value is None:
        raise ConfigError(f"{path}: the variable {name} isn't set; set it, or write ${{{name}:-default}}")
    if is_secret(name):
        remember_secret(value)
    return value


# ── errors ──────────────────────────────────────────────────────────────────


def _place(error: yaml.YAMLError) -> str:
    mark = error.problem_mark or error.context_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""


def _problem(error: yaml.YAMLError) -> str:
    marked = error.problem or error.context if isinstance(error, yaml.MarkedYAMLError) else None
    if marked is None or isinstance(error, _Mistake):
        return marked or "not YAML text"
    if marked == "second occurrence":
        return "an anchor is given twice"
    return _QUOTED.sub(lambda quoted: quoted[0] if _HARMLESS.fullmatch(quoted[0]) else "(…)", marked)
