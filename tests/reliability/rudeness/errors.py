"""Tasks that fail in ways that nobody expects."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from omniq.errors import Retry

from tests.reliability.rudeness.acts import SUCCESS, rude


class Falling:
    """Fails at its end."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __del__(self) -> None:
        raise self._error


@rude(SUCCESS)
def raise_from_del() -> None:
    Falling(ValueError("from __del__"))
    Falling(SystemExit(1))


@rude(SUCCESS)
async def raise_from_del_on_a_loop() -> None:
    falling = Falling(SystemExit(1))
    await asyncio.sleep(0)
    del falling


class LyingMeta(type):
    """Its classes don't tell their names."""

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__module__", "__qualname__", "__name__"):
            raise ValueError("no name")
        return super().__getattribute__(name)


class Lying(Exception, metaclass=LyingMeta):
    """Lies about itself wherever it can."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return Retry

    @property
    def delay(self) -> Any:
        raise SystemExit

    @property
    def args(self) -> Any:  # type: ignore[override]
        raise KeyboardInterrupt

    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        return "none"

    @property
    def __context__(self) -> Any:  # type: ignore[override]
        raise ValueError

    def __str__(self) -> str:
        return self.__str__()

    def __repr__(self) -> str:
        raise KeyboardInterrupt


class Rude(BaseException):
    """Caught by nobody."""


@rude("tests.reliability.rudeness.errors.Lying")
def raise_a_lie() -> NoReturn:
    raise Lying


@rude("tests.reliability.rudeness.errors.Lying")
async def raise_a_lie_on_a_loop() -> NoReturn:
    raise Lying


@rude("BaseExceptionGroup")
def raise_a_group() -> NoReturn:
    raise BaseExceptionGroup("all", [SystemExit(1), KeyboardInterrupt(), ValueError()])


@rude("GeneratorExit")
async def raise_generator_exit() -> NoReturn:
    raise GeneratorExit


@rude("StopIteration")
def raise_stop_iteration() -> NoReturn:
    raise StopIteration(1)


@rude("RuntimeError")
async def raise_stop_iteration_on_a_loop() -> NoReturn:
    raise StopIteration(1)


@rude("StopAsyncIteration", "RuntimeError")
async def raise_stop_async_iteration() -> NoReturn:
    raise StopAsyncIteration


@rude("tests.reliability.rudeness.errors.Rude")
async def raise_a_base_exception_in_a_child() -> None:
    async def child() -> NoReturn:
        raise Rude

    await asyncio.gather(child())


@rude("omniq.errors.SerializationError")
def return_a_generator() -> Any:
    return (n for n in range(3))
