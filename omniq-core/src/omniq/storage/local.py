"""Files of this machine: ours alone where we make them, nobody else's where we find them, told from their successors.

For stores that keep what they are given in files. Whoever can write those decides what a worker runs, and whoever can
write their directory can replace them. So a store calls `make_directory` or `make_file` before it opens anything, and
compares what it has open with what is at its path by `identity`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias

from omniq.errors import StoreError, StoreUnavailable

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
