"""Constructors that take the fields of a configuration struct as keyword arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import Concatenate, ParamSpec, TypeVar, cast

from msgspec import Struct

from omniq.config.convert import convert
from omniq.errors import ConfigError

P = ParamSpec("P")
S = TypeVar("S")
C = TypeVar("C", bound=Struct)


def configured_by(config: Callable[P, C]) -> Callable[[Callable[[S, C], None]], Callable[Concatenate[S, P], None]]:
    """Give an `__init__(self, config)` the keyword arguments of its config struct, checked as they come in.

        class AsyncSQLiteTaskQueue(AsyncTaskQueue[SQLiteTaskQueueConfig]):
            @configured_by(SQLiteTaskQueueConfig)
            def __init__(self, config: SQLiteTaskQueueConfig) -> None: ...

        AsyncSQLiteTaskQueue(base_dir="some/path")

    Paths may be given as `pathlib.Path` and durations as `timedelta`. The constructor raises `ConfigError`,
    such as `AsyncSQLiteTaskQueue: base_dir: expected str, got int`, and `TypeError` for positional arguments.
    """
    struct = cast("type[C]", config)

    def decorate(init: Callable[[S, C], None]) -> Callable[Concatenate[S, P], None]:
        @functools.wraps(init)
        def construct(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
            name = type(self).__name__
            if args:
                raise TypeError(f"{name} takes keyword arguments only")
            try:
                checked = convert(kwargs, struct)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None
            init(self, checked)

        construct.__dict__["__signature__"] = _signature(struct)
        return construct

    return decorate


def _signature(struct: type[Struct]) -> Signature:
    """What `help` and editors show: the fields instead of `**kwargs`."""
    this = Parameter("self", Parameter.POSITIONAL_ONLY)
    return Signature([this, *signature(struct).parameters.values()])
