"""From calls and values to sealed bytes and back."""

from __future__ import annotations

import datetime as dt
import hmac
import inspect
import pickle
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NoReturn, TypeAlias

from msgspec import Meta, Struct, field
from msgspec.msgpack import Encoder

from omniq import clock
from omniq.errors import ConfigError, CorruptPayload, KeyMissing, ResultError, SerializationError, SignatureError
from omniq.models.config import Abridged, NotNegative
from omniq.models.schedule import FiringPolicy, Timing
from omniq.models.task import Call, ParentFailure, RetryRule
from omniq.serialization.base import DILL, MSGSPEC, Format, Function, NotCarried, Serializer, display_name, type_name
from omniq.serialization.msgspec_ import MsgspecSerializer
from omniq.serialization.parents import OutOfPlace
from omniq.texts import get_logger

# ── dill's serializer ───────────────────────────────────────────────────────


class DillSerializer(Serializer):
    """Carries nearly every Python object: closures, lambdas, local classes, what `__main__` defines, …

    dill is imported when it is first needed, not with this module.
    """

    format = DILL

    def dumps(self, value: object) -> bytes:
        from omniq.serialization.dill_pickler import dumps

        try:
            return dumps(value)
        except OutOfPlace:
            raise
        except RecursionError as error:
            raise SerializationError(f"can't serialize {type_name(value)}: it is nested too deeply") from error
        except Exception as error:  # the value's own `__reduce__` may raise anything
            advice = "pass what it can be rebuilt from (an id, a path, plain data), or define it in a module"
            raise SerializationError(f"can't serialize {type_name(value)}: {error}; {advice}") from error

    def loads(self, data: bytes) -> Any:
        import dill

        try:
            # Else it would give a value of `__main__` whatever class has its name there.
            return dill.loads(data, ignore=True)
        except ResultError:  # of a parent whose value isn't there
            raise
        except (pickle.UnpicklingError, EOFError) as error:
            raise CorruptPayload(f"these bytes aren't a value that dill wrote: {error}") from error
        except (Exception, SystemExit) as error:  # the value's own `__setstate__` may raise anything
            raise SerializationError(f"can't rebuild a value here: {type(error).__name__}: {error}") from error


# ── what is packed ──────────────────────────────────────────────────────────


class CallOptions(Abridged, Struct, frozen=True, kw_only=True):
    """How a call is to be run. Durations are seconds."""

    timeout: float | None = None
    max_retries: int = 0
    retry_delay: float = 0.0
    result_ttl: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    """Text keys and plain values: None, bools, numbers, text, bytes, lists and dicts of them."""
    on_success: Function | None = None
    """Called with the result; like `on_failure`, something that a worker can import."""
    on_failure: Function | None = None
    on_parent_failure: ParentFailure = "cancel"
    retry: RetryRule | None = None
    heartbeat_timeout: float | None = None
    worker: str | None = None


class LoadedCall(Abridged, Struct, frozen=True, gc=False):
    """A call that is ready to run: `func(*args, **kwargs)`. Nothing that it holds knows it, so it forms no cycle."""

    func: Function
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


class ScheduledCall(Struct, frozen=True, kw_only=True):
    """What a schedule stores: when it fires, and the call from which each firing's task is made."""

    timing: Timing
    call: Call
    policy: FiringPolicy = FiringPolicy()
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    ttl: NotNegative | None = None
    """Each task expires so many seconds after its slot."""

    def __post_init__(self) -> None:
        if not self.timing.is_set:
            raise ValueError("its timing says nothing")


# ── values ──────────────────────────────────────────────────────────────────


Mode: TypeAlias = Literal["auto", "msgspec"]


class ValueCodec:
    """Chooses the serializer for each value, and keeps dill within its bounds.

    `refusal` says why dill is neither written nor read, and is None where it may be.
    """

    def __init__(self, refusal: str | None = None) -> None:
        self._msgspec = MsgspecSerializer()
        self._dill = DillSerializer()
        self._refusal = refusal
        self.uses_dill = False
        """Whether dill has been written or read yet."""

    def dump(self, value: object) -> tuple[Format, bytes]:
        """The value's format and bytes. Raises `SerializationError`, which names the value's type."""
        try:
            return MSGSPEC, self._msgspec.dumps(value)
        except NotCarried as error:
            if self._refusal is not None:
                raise SerializationError(f"{error}, and {self._refusal}") from error
        return DILL, self.dump_by_dill(value)

    def dump_by_dill(self, value: object) -> bytes:
        """The value in dill's format. Raises `SerializationError` where dill is refused, too."""
        if self._refusal is not None:
            raise SerializationError(f"it needs dill, and {self._refusal}")
        self.uses_dill = True
        return self._dill.dumps(value)

    def load(self, format: str, data: bytes) -> Any:
        """The value again.

        Raises `CorruptPayload` when the bytes aren't in that format, and `SerializationError` when they
        can't be rebuilt here, or are dill's where dill is refused; then they were not decoded.
        """
        if format == MSGSPEC:
            return self._msgspec.loads(data)
        if format != DILL:
            raise CorruptPayload(f"unknown format {format!r}")
        if self._refusal is not None:
            raise SerializationError(f"it was packed by dill, and {self._refusal}; it was not decoded")
        self.uses_dill = True
        return self._dill.loads(data)


# ── arguments ───────────────────────────────────────────────────────────────


# Bytecode is good for one minor version of Python only; in another it may crash the process.
_PYTHON: Final = f"python{sys.version_info.major}.{sys.version_info.minor}"
_PREFIX: Final = _PYTHON.encode() + b"\n"


class ArgumentCodec:
    """Packs the arguments of a call."""

    def __init__(self, values: ValueCodec) -> None:
        self._values = values
        self._nothing = values.dump([[], {}])

    def pack(self, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Format, bytes]:
        """The arguments' format and bytes. Raises `SerializationError`, which names the argument at fault."""
        if not args and not kwargs:
            return self._nothing
        try:
            return self._values.dump([list(args), dict(kwargs)])
        except OutOfPlace:
            raise
        except SerializationError as error:
            self._blame_argument(func, args, kwargs)
            raise SerializationError(f"arguments of {display_name(func)}: {error}") from error

    def unpack(self, func: Function, format: str, data: bytes) -> LoadedCall:
        """The function with its arguments. Raises what `ValueCodec.load` does."""
        packed = self._values.load(format, data)
        # Spelt out, since a match statement would take longer than the decoding.
        if type(packed) is list and len(packed) == 2 and type(packed[0]) is list and type(packed[1]) is dict:
            return LoadedCall(func, packed[0], packed[1])
        raise CorruptPayload(f"arguments of {display_name(func)}: expected a list and a dict")

    def pack_with_function(self, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """Function and arguments together, by dill. Raises `SerializationError`, which names what is at fault."""
        try:
            return _PREFIX + self._values.dump_by_dill([func, list(args), dict(kwargs)])
        except OutOfPlace:
            raise
        except SerializationError as error:
            self._blame_function(func)
            self._blame_argument(func, args, kwargs)
            raise SerializationError(f"call of {display_name(func)}: {error}") from error

    def unpack_with_function(self, data: bytes) -> LoadedCall:
        """What `pack_with_function` packed, by the same minor version of Python."""
        prefix, newline, pickled = data.partition(b"\n")
        if not newline or not prefix.startswith(b"python"):
            raise CorruptPayload("these bytes aren't a function that OmniQ wrote")
        if prefix + newline != _PREFIX:
            packed_by = prefix.decode("ascii", "replace")
            raise SerializationError(
                f"the function travels by value and was packed by {packed_by}, but this is {_PYTHON}: "
                "define it in a module that the worker can import"
            )
        match self._values.load(DILL, pickled):
            case [func, list(args), dict(kwargs)] if callable(func):
                return LoadedCall(func, args, kwargs)
        raise CorruptPayload("expected a function, a list and a dict")

    def _blame_function(self, func: Function) -> None:
        try:
            self._values.dump_by_dill(func)
        except SerializationError as error:
            raise SerializationError(
                f"function {display_name(func)!r}: a worker can't import it (it is a lambda, closure, method or "
                f"part of __main__), so it would have to travel by value: {error}"
            ) from error

    def _blame_argument(self, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise an error that names the first argument that can't be packed by itself, if there is one."""
        for name, value in _named(func, args, kwargs):
            try:
                self._values.dump(value)
            except SerializationError as error:
                raise SerializationError(f"argument {name!r}: {error}") from error


def _named(func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    try:
        positional = [p.name for p in inspect.signature(func).parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    except (TypeError, ValueError):  # some builtins don't tell
        positional = []
    for index, value in enumerate(args):
        yield positional[index] if index < len(positional) else str(index), value
    yield from kwargs.items()


# ── envelopes ───────────────────────────────────────────────────────────────


# ── signatures ──────────────────────────────────────────────────────────────


VARIABLE: Final = "OMNIQ_SIGNING_KEY"
MIN_KEY_LENGTH: Final = 16
"""Bytes."""
MAC_LENGTH: Final = 32
"""Bytes."""
DEFAULT_KEY_ID: Final = "default"
"""The id of a key that is given alone, without one."""

_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,32}")


class Role(StrEnum):
    """What a payload is. A signature for one role is none for another."""

    CALL = "call"
    RESULT = "result"
    """How a task succeeded, with its value."""
    ENDING = "ending"
    """How it ended otherwise, whether it was run or not: there is no value, and it can't be passed off as one."""
    SCHEDULE = "schedule"


class Signer:
    """Signs with its first key and verifies with all of them, so that keys can be replaced one by one.

    Keys come as a mapping from key id to secret, or as text: `secret`, or `new:secret,old:secret`. A
    secret without an id has the id `default`. Raises `ConfigError` when a secret is blank or shorter than 16 bytes.
    """

    def __init__(self, keys: Mapping[str, bytes] | str) -> None:
        secrets = _parse(keys) if isinstance(keys, str) else dict(keys)
        if not secrets:
            raise ConfigError(f"{VARIABLE}: no key given")
        for key_id, secret in secrets.items():
            _check(key_id, secret)
        self.key_id = next(iter(secrets))
        self._key_ids = tuple(secrets)
        self._derived = {(key_id, role): _derive(secret, role) for key_id, secret in secrets.items() for role in Role}

    def __repr__(self) -> str:
        return f"Signer(key_ids={list(self._key_ids)!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("signing keys aren't serialized")

    def mac(self, role: Role, message: bytes) -> bytes:
        """The first key's signature of the message."""
        return hmac.digest(self._derived[self.key_id, role], message, "sha256")

    def verify(self, mac: bytes, role: Role, message: bytes, *, key_id: str) -> None:
        """Return if the signature is right. Raises `SignatureError`, and `KeyMissing` for a key that isn't here."""
        key = self._derived.get((key_id, role))
        if key is None:
            raise KeyMissing(f"it is signed with key id {key_id!r}, which {VARIABLE} doesn't have", key_id)
        if not hmac.compare_digest(hmac.digest(key, message, "sha256"), mac):
            raise SignatureError("its signature is wrong: it was changed, moved, or signed with another key")


def _parse(text: str) -> dict[str, bytes]:
    if any("\ud800" <= char <= "\udfff" for char in text):  # bytes of the environment that aren't UTF-8
        raise ConfigError(f"{VARIABLE}: it isn't UTF-8")
    entries = [entry.strip() for entry in text.split(",")]
    if len(entries) == 1 and ":" not in text:
        return {DEFAULT_KEY_ID: entries[0].encode()} if entries[0] else {}
    secrets: dict[str, bytes] = {}
    for entry in entries:
        key_id, colon, secret = entry.partition(":")
        # The text may hold a secret anywhere, so the messages show none of it.
        if not colon or not _KEY_ID.fullmatch(key_id):
            raise ConfigError(f"{VARIABLE}: expected one secret, or id:secret pairs separated by commas")
        if key_id in secrets:
            raise ConfigError(f"{VARIABLE}: two keys have the same id")
        secrets[key_id] = secret.encode()
    return secrets


def _check(key_id: str, secret: bytes) -> None:
    if not _KEY_ID.fullmatch(key_id):
        raise ConfigError(f"{VARIABLE}: a key id has 1 to 32 letters, digits, '_', '.' or '-'")
    if not secret.strip():
        raise ConfigError(f"{VARIABLE}: key {key_id!r} is empty")
    if len(secret) < MIN_KEY_LENGTH:
        raise ConfigError(
            f"{VARIABLE}: key {key_id!r} has {len(secret)} bytes, and at least {MIN_KEY_LENGTH} are needed"
        )


def _derive(secret: bytes, role: Role) -> bytes:
    return hmac.digest(secret, f"omniq/1/{role}".encode(), "sha256")


# ── envelopes ───────────────────────────────────────────────────────────────


_MAGIC: Final = b"OQ1"
_HEADER_LENGTH: Final = 5
Binding: TypeAlias = tuple[str | int | None, ...]
"""What a payload belongs to; the id of its task or schedule comes first."""
FOREVER: Final = float("inf")
"""As `unsigned_until`: without end."""
_PLAIN: Final = {format: _MAGIC + format.encode() + b"\0" for format in Format}
_PLAIN_MSGSPEC: Final = _PLAIN[MSGSPEC]

_log: Final = get_logger("omniq.serialization")

# MessagePack prefixes every part with its length, so no two lists of parts have the same bytes.
_frame = Encoder().encode


class _Parts(Struct, frozen=True):
    """A sealed payload, taken apart."""

    format: Format
    key_id: str
    """Empty when it is unsigned."""
    header: bytes
    mac: bytes
    body: bytes


class Envelope:
    """Seals with a signer, or without one.

    A signer accepts nothing unsigned, unless it is told to until a time (seconds since the epoch), and then dill
    only if it is told that too. Without a signer, nothing signed is accepted, in either format: whoever signs payloads
    expects them to be verified, so a reader without the key is a mistake to be heard of.
    """

    def __init__(
        self, signer: Signer | None = None, *, unsigned_until: float | None = None, unsigned_dill: bool = True
    ) -> None:
        self._signer = signer
        self._unsigned_until = unsigned_until
        self._unsigned_dill = unsigned_dill
        self._warned = False

    def seal(self, format: Format, body: bytes, *, role: Role, binding: Binding) -> bytes:
        """The body in its envelope."""
        signer = self._signer
        if signer is None:
            return _PLAIN[format] + body
        key_id = signer.key_id.encode()
        header = b"%b%b%c%b" % (_MAGIC, format.encode(), len(key_id), key_id)
        return header + signer.mac(role, _message(header, role, binding, body)) + body

    def unseal(self, data: bytes, *, role: Role, binding: Binding) -> tuple[Format, bytes]:
        """Format and body of a payload that `seal` made with the same role and binding.

        Raises `SignatureError` when it isn't signed as it must be, `KeyMissing` when that can't be told for want of
        the key, and `CorruptPayload` when it is no envelope at all. In no case the body was decoded.
        """
        if self._signer is None and data.startswith(_PLAIN_MSGSPEC):
            return MSGSPEC, data[_HEADER_LENGTH:]
        parts = _split(data)
        try:
            self._verify(parts, role, binding)
        except KeyMissing as error:
            raise KeyMissing(_told(error, role, binding), error.key_id) from None
        except SignatureError as error:
            raise SignatureError(_told(error, role, binding)) from None
        return parts.format, parts.body

    def resign(self, data: bytes, *, role: Role, binding: Binding) -> bytes:
        """The same payload, signed with the first key. Raises as `unseal` does."""
        format, body = self.unseal(data, role=role, binding=binding)
        return self.seal(format, body, role=role, binding=binding)

    def _verify(self, parts: _Parts, role: Role, binding: Binding) -> None:
        if self._signer is None:
            if parts.key_id:
                raise KeyMissing(f"it is signed with key id {parts.key_id!r}, and {VARIABLE} isn't set", parts.key_id)
        elif not parts.key_id:
            self._check_unsigned(parts.format)
        else:
            message = _message(parts.header, role, binding, parts.body)
            self._signer.verify(parts.mac, role, message, key_id=parts.key_id)

    def _check_unsigned(self, format: Format) -> None:
        """Return if it is accepted without a signature. Raises `SignatureError`."""
        if self._unsigned_until is None or clock.now() >= self._unsigned_until:
            raise SignatureError(f"it is unsigned, and {VARIABLE} is set")
        if format is DILL and not self._unsigned_dill:
            raise SignatureError("it is unsigned dill, which could run more than allowed_modules allows")
        if not self._warned:
            self._warned = True
            _log.warning("unsigned payloads are accepted %s: until then, signatures protect nothing", self._until())

    def _until(self) -> str:
        assert self._unsigned_until is not None
        if self._unsigned_until == FOREVER:
            return "by this call"
        return f"until {dt.datetime.fromtimestamp(self._unsigned_until, dt.UTC).isoformat()}"


def _told(error: SignatureError, role: Role, binding: Binding) -> str:
    return f"{role} of {binding[0]}: {error}; it was not decoded"


def _message(header: bytes, role: Role, binding: Binding, body: bytes) -> bytes:
    return b"".join((header, _frame((role, *binding)), body))


def _split(data: bytes) -> _Parts:
    if not data.startswith(_MAGIC) or len(data) < _HEADER_LENGTH:
        raise CorruptPayload("these bytes aren't a payload that OmniQ wrote")
    header_end = _HEADER_LENGTH + data[4]
    body_start = header_end + (MAC_LENGTH if data[4] else 0)
    if len(data) < body_start:
        raise CorruptPayload("the payload is cut off")
    try:
        format, key_id = Format(chr(data[3])), data[_HEADER_LENGTH:header_end].decode("ascii")
    except ValueError:
        raise CorruptPayload("the payload's header is damaged, or of a later version of OmniQ") from None
    return _Parts(format, key_id, data[:header_end], data[header_end:body_start], data[body_start:])
