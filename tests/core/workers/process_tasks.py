"""Tasks for process workers: what a child process is like, and what rude tasks do to it."""

from __future__ import annotations

import _thread
import atexit
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.core.tasks import PATIENCE, note

# ── what a child is like ─────────────────────────────────────────────────────


def environment() -> dict[str, str]:
    """The environment that a program gets from this task."""
    lines = subprocess.run(["env", "-0"], check=True, capture_output=True, text=True).stdout.split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def import_path() -> list[str]:
    return sys.path


def imported_from(*names: str) -> list[str | None]:
    """Where modules come from."""
    return [getattr(__import__(name), "__file__", None) for name in names]


def flags() -> dict[str, Any]:
    """How the interpreter was started."""
    return {
        "optimize": sys.flags.optimize,
        "dev_mode": sys.flags.dev_mode,
        "utf8_mode": sys.flags.utf8_mode,
        "no_user_site": sys.flags.no_user_site,
        "warnoptions": sys.warnoptions,
        "digits": sys.get_int_max_str_digits(),
    }


def read_input() -> str:
    return sys.stdin.read()


def log_at(level: int, text: str) -> None:
    logging.getLogger("shop").log(level, text)


def print_lines(count: int) -> None:
    """Print lines, and the beginning of another one."""
    for number in range(count):
        print("line", number)
    print("rest", end="")


def print_and_die(text: str) -> None:
    print(text)
    os._exit(7)


def print_at_exit() -> None:
    atexit.register(print, "at the exit")


def signing_key() -> str | None:
    """The key that OmniQ signs with here unless it is told otherwise."""
    from omniq.config.loader import ConfigProvider, Security

    key = Security.from_environment().signing_key
    assert ConfigProvider().load().signing_key == key
    return key


def start_a_program(log: str) -> None:
    """Start a program, and wait for long."""
    program = subprocess.Popen(["sleep", str(PATIENCE)])
    note(log, program.pid)
    time.sleep(PATIENCE)


def leave_a_program(log: str) -> None:
    """Start a program, and don't wait for it."""
    note(log, subprocess.Popen(["sleep", str(PATIENCE)]).pid)


def returns(size: int) -> bytes:
    return os.urandom(size)


def size_noted(log: str, size: int, argument: bytes) -> tuple[int, bytes]:
    """Note the run; returns the argument's length, and as many bytes as asked for."""
    note(log)
    return len(argument), bytes(size)


def return_more_than_may_be() -> bytes:
    """Return more than a frame may hold, now."""
    from omniq.workers import messages

    vars(messages)["MAX_BODY"] = 1000
    return bytes(1001)


def resident(argument: bytes = b"") -> int:
    """Bytes of memory that this process has in use."""
    import psutil

    return int(psutil.Process().memory_info().rss)


# ── rude ones ────────────────────────────────────────────────────────────────


def close_standard_descriptors() -> None:
    for number in range(3):
        os.close(number)


def close_output() -> None:
    sys.stdout.close()
    sys.stderr.close()


def lead_output_away() -> None:
    """Let file 1 be another one, as a daemon does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def close_all_descriptors() -> None:
    os.closerange(3, 10_000)


def use_up_descriptors() -> None:
    while True:
        try:
            os.open(os.devnull, os.O_RDONLY)
        except OSError:
            return


def allow_no_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))


def change_directory() -> None:
    os.chdir("/")


def change_umask() -> None:
    os.umask(0o777)


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def set_timers() -> None:
    signal.setitimer(signal.ITIMER_VIRTUAL, 60)
    signal.setitimer(signal.ITIMER_PROF, 60)


def set_an_alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.01)


def lower_the_recursion_limit() -> None:
    sys.setrecursionlimit(60)


def recurse() -> None:
    recurse()


def return_from_a_fork() -> None:
    os.fork()


def exit_from_a_fork() -> None:
    if os.fork() == 0:
        sys.exit(3)


def become_another_program() -> None:
    os.execvp("true", ["true"])


def leave_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(PATIENCE,)).start()
    _thread.start_new_thread(time.sleep, (PATIENCE,))


def allocate() -> None:
    bytearray(2**30)


def exit_at_once() -> None:
    os._exit(3)


def write_to_the_line() -> None:
    """Write to all open descriptors what is no message."""
    for number in range(3, 64):
        try:
            os.write(number, b"\xff" * 64)
        except OSError:
            continue


SURVIVED: list[Callable[[], None]] = [
    close_standard_descriptors,
    close_output,
    lead_output_away,
    use_up_descriptors,
    allow_no_descriptors,
    change_directory,
    change_umask,
    block_signals,
    set_an_alarm,
    set_timers,
    lower_the_recursion_limit,
    return_from_a_fork,
    exit_from_a_fork,
    leave_a_thread,
    allocate,
]
FAILING: list[Callable[[], None]] = [recurse]
DEADLY: list[Callable[[], None]] = [close_all_descriptors, become_another_program, exit_at_once, write_to_the_line]
RUDE = {func.__name__: func for func in SURVIVED + FAILING + DEADLY}


def rude(how: str) -> None:
    """Do one of these, or nothing."""
    if how:
        RUDE[how]()


def innocent(log: str) -> list[object]:
    """Note the run, print, open a file and start a program; returns what of its surroundings a task relies on."""
    note(log)
    print("innocent")
    sys.stderr.write("")
    with open(os.devnull) as file:
        subprocess.run(["sleep", "0.01"], check=True, stdin=file)
    umask = os.umask(0)
    os.umask(umask)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    timers = [signal.getitimer(timer) for timer in (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)]
    return [os.getcwd(), umask, len(blocked), os.fstat(1).st_ino, sys.getrecursionlimit(), timers]
