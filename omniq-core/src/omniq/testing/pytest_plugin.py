"""What pytest finds when omniq-core is installed: fixtures for tests of programs that use OmniQ.

It does nothing by itself, and imports nothing of OmniQ until one of them is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from omniq import AsyncOmniQ, OmniQ
    from omniq.testing import AsyncSandbox, Sandbox


@pytest.fixture
def omniq_app() -> Iterator[Sandbox]:
    """An `OmniQ` in memory whose tasks run in `drain()`, with a clock to `advance()`: see `omniq.testing.Sandbox`."""
    from omniq.testing import Sandbox

    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def omniq_async_app() -> Iterator[AsyncSandbox]:
    """As `omniq_app`, for async tests, whichever plugin runs them: see `omniq.testing.AsyncSandbox`."""
    from omniq.testing import AsyncSandbox

    sandbox = AsyncSandbox()
    sandbox.install()
    yield sandbox
    sandbox.remove()


@pytest.fixture
def omniq_sandbox() -> Iterator[Callable[..., Sandbox]]:
    """Makes a sandbox of a program's own `oq`, to the end of the test: `omniq_sandbox(shop.oq, eager=True)`."""
    from omniq.testing import Sandbox

    with ExitStack() as entered:

        def make(*doors: OmniQ | AsyncOmniQ, eager: bool = False) -> Sandbox:
            return entered.enter_context(Sandbox(*doors, eager=eager))

        yield make


@pytest.fixture
def omniq_async_sandbox() -> Iterator[Callable[..., AsyncSandbox]]:
    """As `omniq_sandbox`, for async tests."""
    from omniq.testing import AsyncSandbox

    with ExitStack() as installed:

        def make(*doors: OmniQ | AsyncOmniQ, eager: bool = False) -> AsyncSandbox:
            sandbox = AsyncSandbox(*doors, eager=eager)
            sandbox.install()
            installed.callback(sandbox.remove)
            return sandbox

        yield make
