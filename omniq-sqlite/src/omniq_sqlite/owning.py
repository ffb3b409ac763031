"""Whose files these are: ours alone where we make them, and nobody else's where we find them.

Whoever can write the database decides what a worker runs, and whoever can write its directory can replace it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from omniq.errors import StoreError, StoreUnavailable

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600

_BESIDE: Final = ("", "-wal", "-shm", "-journal")
"""What the names of a database's files end with. SQLite makes the others as the first one is."""
_ROOT: Final = 0
_TRANSIENT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO})
_ADVICE: Final = "give OmniQ a place of its own, or set trust_owner if whoever writes there may decide what runs here"


def make_place(path: str, *, trust_owner: bool) -> None:
    """Make the directory and the file where they are missing, for this user alone, whatever the umask.

    Raises `StoreError` if that can't be, or if another user owns what is there or can replace it: the files must be
    this user's; the directory may be root's too, and where everybody can write it must be sticky, as `/tmp` is. With
    `trust_owner`, and on systems without users, anything goes.
    """
    directory = os.path.dirname(path)
    user = None if trust_owner or not hasattr(os, "geteuid") else os.geteuid()
    try:
        _make_directory(directory)
        if user is not None:
            _check_directory(directory, user)
        _make_file(path)
    except OSError as error:
        kind = StoreUnavailable if error.errno in _TRANSIENT else StoreError
        what = f"{path}: the file" if os.path.isdir(directory) else f"{directory}: the directory"
        raise kind(f"{what} can't be made: {error.strerror}") from error
    if user is not None:
        for end in _BESIDE:
            _check_file(path + end, user)


def _make_file(path: str) -> None:
    if os.path.lexists(path):
        return
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE_MODE)
    except FileExistsError:  # somebody was faster
        return
    os.close(file)
    os.chmod(path, FILE_MODE)


def _make_directory(directory: str) -> None:
    if os.path.isdir(directory):
        return
    _make_directory(os.path.dirname(directory))
    try:
        os.mkdir(directory, FOLDER_MODE)
        os.chmod(directory, FOLDER_MODE)
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
