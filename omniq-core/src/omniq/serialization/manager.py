"""What the engine uses: calls, outcomes and schedules as sealed bytes, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec.msgpack import Decoder, Encoder

from omniq.errors import CorruptPayload, InvalidTask, PayloadTooLarge, SerializationError
from omniq.models.config import DEFAULT_PROJECT
from omniq.models.result import Outcome
from omniq.models.task import Call, TaskId, TaskState
from omniq.serialization.base import (
    DILL,
    MSGSPEC,
    Format,
    Function,
    FunctionRegistry,
    display_name,
    function_of,
    is_lost_class_method,
    reference,
    type_name,
)
from omniq.serialization.codec import (
    VARIABLE,
    ArgumentCodec,
    CallOptions,
    Envelope,
    LoadedCall,
    Mode,
    Role,
    ScheduledCall,
    Signer,
    ValueCodec,
)
from omniq.serialization.msgspec_ import StructSerializer
from omniq.serialization.parents import OutOfPlace, ParentResult, filled, for_parents
from omniq.texts import get_logger

MAX_METADATA: Final = 64 * 1024
"""Bytes of a task's metadata, packed."""
# The envelope tells without decoding whether there is dill inside, so it must not lie.
_DISAGREEING: Final = "the payload's header and body disagree about its format"
_DEFAULTS: Final = CallOptions()
# An enum takes its time to find a member, and these are asked for with every task.
_CALL, _RESULT, _ENDING, _SUCCESS = Role.CALL, Role.RESULT, Role.ENDING, TaskState.SUCCESS
_encode_metadata = Encoder(enc_hook=lambda value: _plain(value)).encode
_decode_metadata = Decoder(dict[str, Any]).decode


class SerializationManager:
    """Packs and reads everything that stores carry as opaque bytes.

    `read_…` verifies and tells what is there, and neither imports a function nor unpickles anything;
    `load_…` does. Both raise `SignatureError` or `CorruptPayload` for bytes that weren't packed here, or not
    for the project, task, queue, claim, status or schedule that they are read for, and `KeyMissing` for those
    that are signed with a key which isn't here.

    `mode` is `auto`, or `msgspec` so that dill is neither written nor read. With `allowed_modules`, functions
    of no other modules are run; as dill can't be held to that, it then takes a signer too. `unsigned_until`
    (seconds since the epoch) lets a signer accept unsigned payloads until then.
    """

    def __init__(
        self,
        mode: Mode = "auto",
        signer: Signer | None = None,
        allowed_modules: Sequence[str] | None = None,
        *,
        project: str = DEFAULT_PROJECT,
        unsigned_until: float | None = None,
    ) -> None:
        restricted = allowed_modules is not None
        refusal = _refusal(mode, signer, restricted)
        self._takes_dill = refusal is None
        self.signs = signer is not None
        """Whether payloads are signed, and those of others refused."""
        self.runs_dill_of_anybody = signer is None and refusal is None
        """Whether it unpickles what anybody may have written."""
        self.calls_anything = signer is None and not restricted
        """Whether it calls any function that anybody may have named."""
        self._project = project
        self._values = ValueCodec(refusal)
        self._arguments = ArgumentCodec(self._values)
        self._envelope = Envelope(signer, unsigned_until=unsigned_until, unsigned_dill=not restricted)
        self._functions = FunctionRegistry(allowed_modules)
        self._calls = StructSerializer(Call)
        self._outcomes = StructSerializer(Outcome)
        self._schedules = StructSerializer(ScheduledCall)

    def preload(self) -> None:
        """Import what payloads may need, before tasks run that may use up the descriptors which that takes."""
        if self._takes_dill:
            from omniq.serialization import dill_pickler  # noqa: F401

    @property
    def uses_dill(self) -> bool:
        """Whether dill has been written or read yet."""
        return self._values.uses_dill

    # ── calls ────────────────────────────────────────────────────────────────

    def pack_call(
        self,
        func: Function,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: CallOptions = _DEFAULTS,
        *,
        task_id: str,
        queue_name: str,
    ) -> bytes:
        """A call for one task. Raises `SerializationError`, which names the argument or option at fault."""
        return self.reseal(self.build_call(func, args, kwargs, options), task_id=task_id, queue_name=queue_name)

    def build_call(
        self, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions = _DEFAULTS
    ) -> Call:
        """A call for no task yet: what a schedule keeps. Raises like `pack_call`."""
        ref = reference(func)
        if ref is None and is_lost_class_method(func):
            raise InvalidTask(f"func: {display_name(func)} is a class method: give it to enqueue() of the OmniQ itself")
        func = function_of(func)
        parents: tuple[str, ...] = ()
        try:
            format, packed = self._pack(func, ref, args, kwargs)
        except OutOfPlace:
            with for_parents() as named:
                format, packed = self._pack(func, ref, args, kwargs)
            parents = tuple(named)
        return Call(
            func=ref or display_name(func),
            args=packed,
            args_format=format.value,
            by_value=ref is None,
            timeout=options.timeout,
            max_retries=options.max_retries,
            retry_delay=options.retry_delay,
            result_ttl=options.result_ttl,
            metadata=_check_metadata(options.metadata) if options.metadata else {},
            on_success=_callback("on_success", options.on_success),
            on_failure=_callback("on_failure", options.on_failure),
            on_parent_failure=options.on_parent_failure,
            retry=options.retry,
            results_of=parents,
            heartbeat_timeout=options.heartbeat_timeout,
            worker=options.worker,
        )

    def _pack(
        self, func: Function, ref: str | None, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Format, bytes]:
        if ref is None:
            return DILL, self._arguments.pack_with_function(func, args, kwargs)
        return self._arguments.pack(func, args, kwargs)

    def reseal(self, call: Call, *, task_id: str, queue_name: str, schedule_id: str | None = None) -> bytes:
        """The call as the bytes of one task; `schedule_id` is that of the schedule which fired it, if one did."""
        binding = (task_id, queue_name, schedule_id, self._project)
        return self._envelope.seal(_format_of(call), self._calls.dumps(call), role=_CALL, binding=binding)

    def read_call(self, data: bytes, *, task_id: str, queue_name: str, schedule_id: str | None = None) -> Call:
        """The call with its options, verified; its function and arguments stay packed."""
        binding = (task_id, queue_name, schedule_id, self._project)
        format, body = self._envelope.unseal(data, role=_CALL, binding=binding)
        call = self._calls.loads(body)
        if format is not _format_of(call):
            raise CorruptPayload(_DISAGREEING)
        return call

    def resign_call(self, data: bytes, *, task_id: str, queue_name: str, schedule_id: str | None = None) -> bytes:
        """The same call, verified and signed with the first key; like the next two of its kind, it decodes nothing."""
        binding = (task_id, queue_name, schedule_id, self._project)
        return self._envelope.resign(data, role=_CALL, binding=binding)

    def load_call(self, call: Call) -> LoadedCall:
        """Function and arguments of a call from `read_call`.

        Raises `FunctionNotFound` when the function can't be imported or may not be, and `SerializationError` when the
        arguments can't be rebuilt here, or need dill where it is refused.
        """
        if call.by_value:
            return self._arguments.unpack_with_function(call.args)
        return self._arguments.unpack(function_of(self._functions.resolve(call.func)), call.args_format, call.args)

    def load_child(self, call: Call, parents: Sequence[ParentResult]) -> LoadedCall:
        """As `load_call`, with the results of the call's `results_of`. Raises `ResultError` when one has no value."""
        with filled(parents, self.load_value):
            return self.load_call(call)

    def load_arguments(self, call: Call) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The arguments of a call from `read_call`, without its function where that isn't packed with them.

        Raises `SerializationError`.
        """
        loaded = (
            self.load_call(call) if call.by_value else self._arguments.unpack(_not_called, call.args_format, call.args)
        )
        return loaded.args, loaded.kwargs

    def resolve(self, ref: str) -> Function:
        """The function behind a reference, such as a call's `on_success`. Raises `FunctionNotFound`."""
        return self._functions.resolve(ref)

    # ── outcomes ─────────────────────────────────────────────────────────────

    def dump_value(self, value: object) -> tuple[Format, bytes]:
        """Format and bytes of a result, for an `Outcome`. Raises `SerializationError`, which names its type."""
        return self._values.dump(value)

    def load_value(self, format: str, data: bytes) -> Any:
        """The result in a successful outcome from `read_outcome`. Raises `SerializationError`."""
        return self._values.load(format, data)

    def pack_outcome(
        self, outcome: Outcome, *, task_id: str, epoch: int, status: TaskState, schedule_id: str | None
    ) -> bytes:
        """How a task ended, by or after one claim, in that state."""
        binding = (task_id, epoch, status, schedule_id, self._project)
        format = _format_of_outcome(outcome)
        return self._envelope.seal(format, self._outcomes.dumps(outcome), role=_role_of(status), binding=binding)

    def read_outcome(
        self, data: bytes, *, task_id: str, epoch: int, status: TaskState, schedule_id: str | None
    ) -> Outcome:
        """The outcome, verified; its value stays packed."""
        binding = (task_id, epoch, status, schedule_id, self._project)
        format, body = self._envelope.unseal(data, role=_role_of(status), binding=binding)
        outcome = self._outcomes.loads(body)
        if format is not _format_of_outcome(outcome):
            raise CorruptPayload(_DISAGREEING)
        return outcome

    def resign_outcome(
        self, data: bytes, *, task_id: str, epoch: int, status: TaskState, schedule_id: str | None
    ) -> bytes:
        """The same outcome, verified and signed with the first key."""
        binding = (task_id, epoch, status, schedule_id, self._project)
        return self._envelope.resign(data, role=_role_of(status), binding=binding)

    # ── schedules ────────────────────────────────────────────────────────────

    def pack_schedule(self, scheduled: ScheduledCall, *, schedule_id: str, queue_name: str) -> bytes:
        """A schedule's timing and call."""
        binding = (schedule_id, queue_name, self._project)
        body = self._schedules.dumps(scheduled)
        return self._envelope.seal(_format_of(scheduled.call), body, role=Role.SCHEDULE, binding=binding)

    def read_schedule(self, data: bytes, *, schedule_id: str, queue_name: str) -> ScheduledCall:
        """The schedule, verified; `reseal` its call for each task that it fires."""
        binding = (schedule_id, queue_name, self._project)
        format, body = self._envelope.unseal(data, role=Role.SCHEDULE, binding=binding)
        scheduled = self._schedules.loads(body)
        if format is not _format_of(scheduled.call):
            raise CorruptPayload(_DISAGREEING)
        return scheduled

    def resign_schedule(self, data: bytes, *, schedule_id: str, queue_name: str) -> bytes:
        """The same schedule, verified and signed with the first key."""
        return self._envelope.resign(data, role=Role.SCHEDULE, binding=(schedule_id, queue_name, self._project))


def _refusal(mode: Mode, signer: Signer | None, restricted: bool) -> str | None:
    if mode == "msgspec":
        return "serializer='msgspec' turns dill off"
    if restricted and signer is None:
        return f"allowed_modules is set but {VARIABLE} isn't, and unsigned dill could run anything"
    return None


def _callback(name: str, func: Function | None) -> str | None:
    if func is None:
        return None
    if not callable(func):
        raise InvalidTask(f"{name}: expected a function, got {type(func).__name__}")
    ref = reference(func)
    if ref is None:
        raise SerializationError(
            f"{name}: a worker can't import {display_name(func)!r}; define it at the top of a module"
        )
    return ref


def _not_called() -> None:
    """Stands for a function whose arguments alone are looked at."""


def _plain(value: object) -> str:
    """A task's id as the text that it is. Raises `TypeError` for what isn't plain."""
    if isinstance(value, TaskId):
        return str.__str__(value)
    raise TypeError(f"can't encode values of type {type_name(value)}")


def _holds_nan(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_nan, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_nan, value))
    return isinstance(value, float) and value != value


def _check_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata as they are stored."""
    try:
        packed = _encode_metadata(metadata)
        returned: dict[str, Any] = _decode_metadata(packed)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SerializationError(f"metadata: {error}") from error
    if _holds_nan(metadata):
        raise SerializationError("metadata: NaN is equal to nothing, itself included: give None instead")
    if returned != metadata:
        raise SerializationError("metadata: expected None, bools, numbers, text, bytes, and lists and dicts of them")
    if len(packed) > MAX_METADATA:
        raise PayloadTooLarge(f"metadata: it has {len(packed):,} bytes; {MAX_METADATA:,} are allowed")
    return returned


def _role_of(status: TaskState) -> Role:
    # An end without a value has a role of its own, so that none is ever taken for a success with the value None.
    return _RESULT if status is _SUCCESS else _ENDING


def _format_of(call: Call) -> Format:
    return DILL if call.by_value or call.args_format == DILL else MSGSPEC


def _format_of_outcome(outcome: Outcome) -> Format:
    return DILL if outcome.value_format == DILL else MSGSPEC


# ── warning ─────────────────────────────────────────────────────────────────


_log: Final = get_logger("omniq.serialization")
_warned: set[str] = set()
"""The locations that were warned of."""

_DILL: Final = (
    "%s is on a network, and what dill wrote there is read without a signature: whoever can write to it can run any "
    "code in every process that reads it. Set " + VARIABLE + " in all of them, or OMNIQ_SERIALIZER=msgspec."
)
_NAMES: Final = (
    "%s is on a network, and functions named there are called without a signature: whoever can write to it can call "
    "any function of any module (posix:system, say) in every worker. Set " + VARIABLE + " in all processes, or "
    "OMNIQ_ALLOWED_MODULES."
)


def warn_if_exposed(location: str, serialization: SerializationManager, *, holds_calls: bool) -> None:
    """Warn, once for each location, of a store on a network that is trusted without a key.

    `holds_calls`: whether functions are called that are named there, as in a task queue.
    """
    if location in _warned:
        return
    if serialization.runs_dill_of_anybody:
        _warned.add(location)
        _log.warning(_DILL, location)
    elif holds_calls and serialization.calls_anything:
        _warned.add(location)
        _log.warning(_NAMES, location)
