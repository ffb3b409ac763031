"""A module as users write it: it takes what it needs from the standard library when it is imported."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from socket import create_connection, socketpair
from threading import Thread
from time import sleep

import gevent
from gevent.monkey import is_module_patched, is_object_patched

PATCHED = [is_module_patched(name) for name in ("socket", "threading", "time", "ssl", "subprocess")]
"""Of the modules, as this one found them."""


def patched_when_imported() -> tuple[list[bool], bool]:
    """What was patched by then, and whether what was imported by name is what gevent put there."""
    return PATCHED, is_object_patched("time", "sleep") and sleep is time.sleep


def wait_with_others(log: str, gate: str) -> int:
    """Wait until there is a gate, and let all others run meanwhile; returns the process."""
    with open(log, "a") as file:
        file.write("begun\n")
    while not Path(gate).exists():
        sleep(0.01)
    return os.getpid()


def talk() -> bytes:
    """Wait for what another greenlet says: on a socket, and in a thread that is none."""
    here, there = socketpair()
    listener = socket.create_server(("127.0.0.1", 0))

    def say() -> None:
        sleep(0.01)
        there.sendall(b"hello")

    thread = Thread(target=say)
    thread.start()
    with create_connection(listener.getsockname()), here, there, listener:
        heard = here.recv(5)
    thread.join()
    return heard


def start_one_that_exits(how: str) -> str:
    """Let a greenlet end as a program would, and wait until it has."""

    def leave() -> None:
        raise SystemExit(3) if how == "exit" else KeyboardInterrupt

    gevent.joinall([gevent.spawn(leave)])
    sleep(0.05)
    return "done"
