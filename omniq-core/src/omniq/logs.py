"""Log lines as JSON: one object a line, whatever is logged, warned of or raised in a process."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

from omniq.loops import inside
from omniq.texts import qualified_name

_OWN: Final = frozenset({*vars(logging.makeLogRecord({})), "asctime", "message", "taskName"})
"""The attributes that every record has."""


class JsonFormatter(logging.Formatter):
    """One JSON object for each record, on one line and in ASCII.

    `ts`, `level`, `logger` and `message` are always there; `exc` and `stack` are a traceback's text; `task` is the id
    of the worker's task whose code logs; `extra` holds what `logging`'s `extra` brings. `about` is put into each line.
    """

    def __init__(self, about: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.about = dict(about or {})

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        fields = {
            "ts": _timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            **self.about,
            "task": _task_id(),
            "exc": self._traceback(record),
            "stack": record.stack_info,
            "extra": {name: _plain(value) for name, value in vars(record).items() if name not in _OWN},
        }
        # ASCII, since a stream of another encoding would write escapes that are none of JSON's.
        return json.dumps({name: value for name, value in fields.items() if value not in (None, {})}, default=repr)

    def _traceback(self, record: logging.LogRecord) -> str | None:
        if not record.exc_info or record.exc_info[0] is None:
            return record.exc_text
        try:
            return self.formatException(record.exc_info)
        except Exception as error:  # of the one that is told of
            return f"{qualified_name(record.exc_info[0])} (it can't be told: {qualified_name(type(error))})"


def _timestamp(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # the arguments don't fit, or something can't be shown
        text = record.msg if isinstance(record.msg, str) else f"(it can't be shown: {qualified_name(type(record.msg))})"
        return f"{text} (its arguments can't be put in: {qualified_name(type(error))})"


def _task_id() -> str | None:
    job = inside.get(None)
    return None if job is None else job.record.id


def _plain(value: object) -> object:
    """The value as JSON has it, or as Python shows it."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except Exception:
        pass
    try:
        return repr(value)
    except Exception as error:
        return f"<it can't be shown: {qualified_name(type(error))}>"


# ── a process that logs so ──────────────────────────────────────────────────


def json_handler() -> logging.StreamHandler[Any] | None:
    """The root logger's handler that writes JSON to stderr; None where lines are plain."""
    handlers = (handler for handler in logging.root.handlers if isinstance(handler.formatter, JsonFormatter))
    return next((handler for handler in handlers if isinstance(handler, logging.StreamHandler)), None)


def about_lines() -> dict[str, str] | None:
    """What each line of this process says besides; None where lines are plain."""
    handler = json_handler()
    formatter = None if handler is None else handler.formatter
    return formatter.about if isinstance(formatter, JsonFormatter) else None


def name_in_logs(worker: str) -> None:
    """Let each line of JSON say which worker this process has; do nothing where lines are plain."""
    if (about := about_lines()) is not None:
        about["worker"] = worker


def log_as_json(about: Mapping[str, str] | None = None) -> None:
    """Let this process log as JSON to stderr: what the root logger gets, warnings, and errors that nobody catches.

    Handlers of the root logger that write to a standard stream do so from now on; others, such as one that writes a
    file, stay as they are.
    """
    formatter = JsonFormatter(about)
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    shown = [
        handler
        for handler in logging.root.handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in streams
    ]
    for handler in shown or [logging.StreamHandler(sys.stderr)]:
        handler.setFormatter(formatter)
        logging.root.addHandler(handler)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def tell(level: int, message: str, *error: Any) -> bool:
    """Write a line whatever the loggers' levels are, with an error's type, value and traceback if one is given.

    Returns whether this process logs as JSON: else nothing is written.
    """
    handler = json_handler()
    if handler is not None:
        record = {"name": "omniq", "levelno": level, "levelname": logging.getLevelName(level), "msg": message}
        handler.handle(logging.makeLogRecord({**record, "exc_info": error or None}))
    return handler is not None


# ── what Python itself would print ──────────────────────────────────────────


def _uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        tell(logging.CRITICAL, "an error that nobody has caught ends this process", kind, error, traceback)


def _uncaught_in_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_type is not SystemExit:
        name = "" if told.thread is None else told.thread.name
        message = f"an error that nobody has caught ends the thread {name}"
        tell(logging.ERROR, message, told.exc_type, told.exc_value, told.exc_traceback)


def _unraisable(told: Any) -> None:
    # Without the object, as a `__del__`'s: it may raise again when it is shown.
    message = told.err_msg or "an error where none can be raised"
    tell(logging.ERROR, message, told.exc_type, told.exc_value, told.exc_traceback)
