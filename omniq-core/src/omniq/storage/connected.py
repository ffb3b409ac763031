"""Connections of stores: opened lazily, shared, counted; what goes wrong on the way, TLS, and files of one user."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import ssl
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Final, Generic, Protocol, TypeAlias, TypeVar

from omniq.errors import StoreError, StoreUnavailable
from omniq.loops import PerLoop
from omniq.storage.base import Store
from omniq.threads import new_lock


class Settings(Protocol):
    """What a connection needs to know, hashable: stores with equal settings share one."""

    @property
    def location(self) -> str:
        """Where that is, as `Store.location`."""


class StoreConfig(Protocol):
    """A store's configuration."""

    @property
    def settings(self) -> Settings:
        """What its connection needs to know."""


def check_layout(location: str, found: int, known: int, distribution: str) -> None:
    """See that what is kept at a place is OmniQ's, and of a layout that this version of the distribution knows.

    Raises `StoreError`. Layouts count from 1.
    """
    if found < 1:
        raise StoreError(f"{location}: what is kept there isn't OmniQ's: give OmniQ a place of its own")
    if found != known:
        remedy = f"upgrade {distribution}" if found > known else "give OmniQ a place of its own"
        raise StoreError(
            f"{location}: {'a newer' if found > known else 'an older'} {distribution} wrote this (layout {found}, this "
            f"one knows {known}): {remedy}"
        )


class Connection(ABC):
    """What is open at one place. It lives from the first store that takes it to the last one that gives it back."""

    defunct = False
    """Nobody may use it any more, nor close it: it is a forked child's parent's, or was retired."""
    _users = 0
    _key: Any = None

    @abstractmethod
    async def close(self) -> None:
        """Close it, after what it was asked for."""

    @abstractmethod
    async def drop(self) -> None:
        """Remove everything that is kept there, as `Store.drop`."""

    @abstractmethod
    def abandon(self) -> None:
        """Close it at once: the loop of the last user has ended."""


T = TypeVar("T", bound=Connection)


class Connections(Generic[T]):
    """The connections that are open of one kind: one for each place, and each event loop unless `of_process`."""

    def __init__(self, make: Callable[[Any], T], *, of_process: bool = False) -> None:
        self._make = make
        self._of_process = of_process
        self._open: dict[tuple[object, Settings], T] = {}
        self._lock = new_lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def take(self, settings: Settings) -> T:
        """The connection for these settings, made at the first call. Raises what making it raises."""
        key = (None if self._of_process else asyncio.get_running_loop(), settings)
        with self._lock:
            connection = self._open.get(key)
            if connection is None:
                connection = self._open[key] = self._make(settings)
                connection._key = key
            connection._users += 1
            return connection

    async def give_back(self, connection: T) -> None:
        """One user less; the last one closes it."""
        if self._is_last(connection):
            await connection.close()

    def drop(self, connection: T) -> None:
        """As `give_back`, for a loop that has ended."""
        if self._is_last(connection):
            connection.abandon()

    def retire(self, connection: T) -> None:
        """Let nobody take it any more: who has it takes a new one at the next use, and the caller closes this one."""
        with self._lock:
            connection.defunct = True
            self._open.pop(connection._key, None)

    def _is_last(self, connection: T) -> bool:
        with self._lock:
            connection._users -= 1
            if connection._users or connection.defunct:
                return False
            del self._open[connection._key]
            return True

    def _forget(self) -> None:
        """They are the parent's: let a forked child open its own."""
        self._lock = new_lock()
        for connection in self._open.values():
            connection.defunct = True
        self._open.clear()


class ConnectionUser(Generic[T]):
    """What works through a `Connection`: a store, or the documents of one."""

    connections: ClassVar[Connections[Any]]

    def __init__(self, config: StoreConfig) -> None:
        settings = self._settings = config.settings
        self._location = settings.location
        self._taken: PerLoop[T] = PerLoop(lambda: self.connections.take(settings), self.connections.drop)

    @property
    def location(self) -> str:
        """Where that is, as `Store.location`."""
        return self._location

    @property
    def _connection(self) -> T:
        """Taken at the first use in each loop, and again after a fork."""
        connection = self._taken.get()
        if connection.defunct:
            self._taken.pop()
            connection = self._taken.get()
        return connection

    async def close(self) -> None:
        """Give the running loop's connection back."""
        if connection := self._taken.pop():
            await self.connections.give_back(connection)

    async def drop(self) -> None:
        """Remove everything that is kept there, and give the connection back. Raises `StoreError`."""
        try:
            await self._connection.drop()
        except OSError as error:
            raise StoreUnavailable(f"{self._location}: {error}") from error
        finally:
            await ConnectionUser.close(self)


class ConnectedStore(ConnectionUser[T], Store):
    """A store that works through a `Connection`."""


# ── what goes wrong on the way ──────────────────────────────────────────────


_WORDS = re.compile(
    r"handler is closed|transport closed|transport is clos|used by transport|can't start new thread", re.IGNORECASE
)
"""Of uvloop, asyncio and TLS: the connection is closed, its descriptor was closed by others, threads have run out."""


Rule: TypeAlias = tuple[type[BaseException] | tuple[type[BaseException], ...], str, type[StoreError]]
"""Errors of these classes in whose text, `module.Class: message`, that pattern is found amount to this `StoreError`."""


def store_errors(
    settings: Settings, rules: Sequence[Rule], advice: Callable[[BaseException], str | None]
) -> AbstractContextManager[None]:
    """Turn what a driver and the event loop raise inside into the `StoreError` that it amounts to.

    What tells of the connection is a `StoreUnavailable`; of a driver's other errors, the first rule that fits counts.
    What fits none is raised as it is. `advice` may know better words than the error's own.
    """

    def kind_of(error: BaseException) -> type[StoreError] | None:
        return StoreUnavailable if is_transport_error(error) else _kind_of(error, rules)

    def words_of(error: BaseException) -> str:
        return f"{settings.location}: {advice(error) or str(error) or type(error).__name__}"

    return raised_as(kind_of, words_of)


@contextmanager
def raised_as(
    kind_of: Callable[[BaseException], type[StoreError] | None], words_of: Callable[[BaseException], str]
) -> Iterator[None]:
    """Turn an error inside into the `StoreError` that it amounts to, if any, with words that tell the place, too."""
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        kind = kind_of(error)
        if kind is None:
            raise
        raise kind(words_of(error)) from error


def _kind_of(error: BaseException, rules: Sequence[Rule]) -> type[StoreError] | None:
    text = f"{type(error).__module__}.{type(error).__name__}: {error}"
    fitting = (kind for classes, pattern, kind in rules if isinstance(error, classes) and re.search(pattern, text))
    return next(fitting, None)


def is_transport_error(error: BaseException) -> bool:
    """Whether it tells of the connection, not of the program: the same call may succeed on another one."""
    if isinstance(error, asyncio.CancelledError):
        return _is_stray(asyncio.current_task())
    if isinstance(error, RuntimeError):
        return _WORDS.search(str(error)) is not None
    return isinstance(error, OSError | EOFError)


def _is_stray(task: asyncio.Task[object] | None) -> bool:
    """Whether nobody has cancelled the task: a driver has let the end of a task of its own slip out."""
    return task is not None and task.cancelling() == 0


# ── TLS ─────────────────────────────────────────────────────────────────────


_OTHER_HOST: Final = frozenset({62, 64})
"""What OpenSSL says of a certificate for another name or address."""
_NOT_VALID: Final = frozenset({9, 10})
"""What it says of one that isn't valid yet, or no longer."""


def tls_advice(error: BaseException, files: Mapping[str, str | None], *, other_host: str) -> str | None:
    """What to do about the error; None where neither it nor what it came from is one of TLS.

    `files` are the store's options that name files, that of the CA first, and what they are set to; `other_host` is
    the remedy for a certificate that is for another host.
    """
    advice = (_advice(each, files, other_host) for each in _with_causes(error))
    return next(filter(None, advice), None)


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what drivers have wrapped in it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _advice(error: BaseException, files: Mapping[str, str | None], other_host: str) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _distrust(error, next(iter(files)), other_host)
    if isinstance(error, ssl.SSLError):
        names = ", ".join(files)
        return (
            f"TLS failed: {getattr(error, 'reason', None) or error}: "
            f"see that {names} are PEM files, and that the key is that of the certificate"
        )
    return _missing_file(files) if isinstance(error, FileNotFoundError) else None


def _distrust(error: ssl.SSLCertVerificationError, ca_option: str, other_host: str) -> str:
    if error.verify_code in _OTHER_HOST:
        return f"the server's certificate is for another host: {other_host}"
    if error.verify_code in _NOT_VALID:
        return f"the server's certificate isn't valid: {error.verify_message}"
    return (
        f"the server's certificate isn't trusted ({error.verify_message}): "
        f"give the file of the CA that signed it as {ca_option}"
    )


def _missing_file(files: Mapping[str, str | None]) -> str | None:
    missing = (f"{name}: there is no file {path}" for name, path in files.items() if path and not os.path.exists(path))
    return next(missing, None)


# ── files of this machine ───────────────────────────────────────────────────


DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600

Identity: TypeAlias = tuple[int, int] | None
"""Device and inode; None where there is no file."""

_ROOT: Final = 0
_TRANSIENT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO})
_ADVICE: Final = "give OmniQ a place of its own, or set trust_owner if whoever writes there may decide what runs here"


def identity(path: str) -> Identity:
    """Which file is at a path: it changes when the file is deleted or replaced, and not when it is written to."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def make_directory(directory: str, *, trust_owner: bool) -> None:
    """Make a directory, and those above it, where they are missing: for this user alone, whatever the umask.

    One that is there must be this user's or root's, and where everybody can write it must be sticky, as `/tmp` is.
    With `trust_owner`, and on systems without users, anything goes.

    Raises `StoreError` if it can't be made or may be changed by another user, and `StoreUnavailable` if it can't be
    made just now, such as on a full disk.
    """
    with _making(f"{directory}: the directory"):
        _make_directories(directory)
        if (user := _user(trust_owner)) is not None:
            _check_directory(directory, user)


def make_file(path: str, *, trust_owner: bool, beside: Sequence[str] = ()) -> None:
    """Make an empty file, and its directory as `make_directory` does, where they are missing.

    The file and, if they exist, those `beside` it (endings that are added to its path) must be this user's and no
    links. Raises as `make_directory`.
    """
    make_directory(os.path.dirname(path), trust_owner=trust_owner)
    with _making(f"{path}: the file"):
        _make_file(path)
    if (user := _user(trust_owner)) is not None:
        for end in ("", *beside):
            _check_file(path + end, user)


def create_file(path: str, data: bytes, *, aside: str, sync: bool) -> bool:
    """Make a file with this content if there is none; returns whether there was none.

    It is written to another one first, in the folder `aside` of the same file system, and linked: so nobody ever sees a
    part of it, and of many who try at once, one succeeds. With `sync`, it survives a loss of power. Raises `OSError`.
    """
    other = _write_aside(data, aside, sync=sync)
    try:
        os.link(other, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(other)
    if sync:
        sync_directory(os.path.dirname(path))
    return True


def replace_file(path: str, data: bytes, *, aside: str, sync: bool) -> None:
    """Make a file with this content, or replace it as a whole, as `create_file` does. Raises `OSError`."""
    other = _write_aside(data, aside, sync=sync)
    try:
        os.replace(other, path)
    except BaseException:
        os.unlink(other)
        raise
    if sync:
        sync_directory(os.path.dirname(path))


def _write_aside(data: bytes, folder: str, *, sync: bool) -> str:
    path = f"{folder}/{secrets.token_hex(8)}"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb") as file:
        try:
            os.chmod(path, FILE_MODE)  # whatever the umask
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        except BaseException:
            os.unlink(path)
            raise
    return path


def sync_directory(path: str) -> None:
    """Let the names of the files in a directory survive a loss of power."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _user(trust_owner: bool) -> int | None:
    """Whose everything has to be, if it matters."""
    return None if trust_owner or not hasattr(os, "geteuid") else os.geteuid()


@contextmanager
def _making(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = StoreUnavailable if error.errno in _TRANSIENT else StoreError
        raise kind(f"{what} can't be made: {error.strerror}") from error


def _make_file(path: str) -> None:
    if os.path.lexists(path):
        return
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE_MODE)
    except FileExistsError:  # somebody was faster
        return
    os.close(file)
    os.chmod(path, FILE_MODE)


def _make_directories(directory: str) -> None:
    if os.path.isdir(directory):
        return
    _make_directories(os.path.dirname(directory))
    try:
        os.mkdir(directory, DIRECTORY_MODE)
        os.chmod(directory, DIRECTORY_MODE)
    except FileExistsError:
        if not os.path.isdir(directory):  # else somebody was faster
            raise


def _check_directory(directory: str, user: int) -> None:
    found = os.stat(directory)
    if found.st_uid not in (user, _ROOT):
        raise StoreError(f"{directory}: this directory belongs to {_who(found, user)}: {_ADVICE}")
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise StoreError(f"{directory}: everybody can replace what is in this directory: {_ADVICE}")


def _check_file(path: str, user: int) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise StoreError(f"{path}: this has become a link to another file: {_ADVICE}")
    if found.st_uid != user:
        raise StoreError(f"{path}: this file belongs to {_who(found, user)}: {_ADVICE}")


def _who(found: os.stat_result, user: int) -> str:
    return f"the user {found.st_uid}, and this process runs as the user {user}"
