"""Keys, envelopes, and the payloads that must be refused before anything in them is decoded."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import dill
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omniq.errors import (
    ConfigError,
    CorruptPayload,
    FunctionNotFound,
    KeyMissing,
    OmniQError,
    SerializationError,
    SignatureError,
)
from omniq.models.result import Outcome
from omniq.models.schedule import Timing
from omniq.models.task import TERMINAL, TaskState
from omniq.serialization import DillSerializer, ScheduledCall, SerializationManager, Signer
from omniq.serialization.base import Format
from omniq.serialization.codec import Envelope, Role

SECRET, OTHER = "s3cret-of-twenty-two-b", "an0ther-secret-just-as"
signed = SerializationManager(signer=Signer(f"k1:{SECRET}"))
unsigned = SerializationManager()
SUCCESS = TaskState.SUCCESS


def add(x: object, y: object = 0) -> tuple[object, object]:
    return x, y


class Canary:
    """Creates a file when it is unpickled: the proof that bytes were run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return _sing, (str(self.path),)


def _sing(path: str) -> str:
    Path(path).touch()
    return path


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    """Must never have been unpickled when the test ends."""
    bird = Canary(tmp_path / "sang")
    yield bird
    assert not bird.path.exists()


def call_of(manager: SerializationManager, value: object, task_id: str = "t1", queue_name: str = "default") -> bytes:
    return manager.pack_call(add, (value,), {}, task_id=task_id, queue_name=queue_name)


def outcome_of(manager: SerializationManager, value: object, epoch: int = 1) -> bytes:
    format, packed = manager.dump_value(value)
    return manager.pack_outcome(
        Outcome(value=packed, value_format=format), task_id="t1", epoch=epoch, status=SUCCESS, schedule_id=None
    )


def schedule_of(
    manager: SerializationManager, value: object, schedule_id: str = "t1", queue_name: str = "default"
) -> bytes:
    scheduled = ScheduledCall(timing=Timing(interval=1.0), call=manager.build_call(add, (value,), {}))
    return manager.pack_schedule(scheduled, schedule_id=schedule_id, queue_name=queue_name)


def load_call(manager: SerializationManager, data: bytes) -> object:
    return manager.load_call(manager.read_call(data, task_id="t1", queue_name="default")).args[0]


def load_outcome(manager: SerializationManager, data: bytes) -> object:
    outcome = manager.read_outcome(data, task_id="t1", epoch=1, status=SUCCESS, schedule_id=None)
    return manager.load_value(outcome.value_format, outcome.value)


def load_schedule(manager: SerializationManager, data: bytes) -> object:
    return manager.load_call(manager.read_schedule(data, schedule_id="t1", queue_name="default").call).args[0]


Pack = Callable[[SerializationManager, object], bytes]
Load = Callable[[SerializationManager, bytes], object]

ROLES: list[tuple[Pack, Load]] = [(call_of, load_call), (outcome_of, load_outcome), (schedule_of, load_schedule)]
roles = pytest.mark.parametrize(("pack", "load"), ROLES, ids=["call", "result", "schedule"])


# ── refused before decoding ──────────────────────────────────────────────────


def test_the_canary_sings_when_its_payload_is_loaded(tmp_path: Path) -> None:
    bird = Canary(tmp_path / "sang")
    assert load_call(signed, call_of(signed, bird)) == str(bird.path)
    assert bird.path.exists()


@roles
def test_a_signed_payload_is_accepted_where_it_belongs(pack: Pack, load: Load) -> None:
    assert load(signed, pack(signed, (1, range(3)))) == (1, range(3))
    assert load(signed, pack(signed, {"a": 1})) == {"a": 1}


@roles
def test_unsigned_payloads_are_refused_whatever_their_format(pack: Pack, load: Load, canary: Canary) -> None:
    for value in (1, canary):
        with pytest.raises(SignatureError, match="t1: it is unsigned, and OMNIQ_SIGNING_KEY is set; it was not dec"):
            load(signed, pack(unsigned, value))


@roles
def test_signed_payloads_are_refused_without_a_key(pack: Pack, load: Load, canary: Canary) -> None:
    for value in (1, canary):
        with pytest.raises(KeyMissing, match="signed with key id 'k1', and OMNIQ_SIGNING_KEY isn't set") as raised:
            load(unsigned, pack(signed, value))
        assert raised.value.key_id == "k1"


@roles
def test_payloads_of_another_key_are_refused(pack: Pack, load: Load, canary: Canary) -> None:
    for keys, told, kind in (
        (f"k1:{OTHER}", "its signature is wrong", SignatureError),
        (f"k9:{SECRET}", "key id 'k9', which", KeyMissing),
    ):
        with pytest.raises(SignatureError, match=told) as raised:
            load(signed, pack(SerializationManager(signer=Signer(keys)), canary))
        assert type(raised.value) is kind


@roles
def test_a_payload_of_one_role_is_none_of_another(pack: Pack, load: Load, canary: Canary) -> None:
    data = pack(signed, canary)
    for _, other in ROLES:
        if other is not load:
            with pytest.raises(SignatureError, match="its signature is wrong"):
                other(signed, data)


def test_a_payload_of_another_task_queue_claim_or_schedule_is_refused(canary: Canary) -> None:
    moved: list[tuple[Load, bytes]] = [
        (load_call, call_of(signed, canary, task_id="t2")),
        (load_call, call_of(signed, canary, queue_name="low")),
        (load_call, call_of(signed, canary, task_id="t", queue_name="1default")),
        (load_outcome, outcome_of(signed, canary, epoch=2)),
        (load_schedule, schedule_of(signed, canary, schedule_id="t2")),
        (load_schedule, schedule_of(signed, canary, queue_name="low")),
    ]
    for load, data in moved:
        with pytest.raises(SignatureError, match="its signature is wrong"):
            load(signed, data)


@roles
def test_a_payload_of_another_project_is_refused(pack: Pack, load: Load, canary: Canary) -> None:
    elsewhere = SerializationManager(signer=Signer(f"k1:{SECRET}"), project="elsewhere")
    with pytest.raises(SignatureError, match="its signature is wrong"):
        load(signed, pack(elsewhere, canary))


def test_an_outcome_is_bound_to_its_status_and_schedule() -> None:
    outcome = Outcome(error_type="ValueError")
    for status in TERMINAL:
        for schedule in (None, "s1"):
            data = signed.pack_outcome(outcome, task_id="t1", epoch=1, status=status, schedule_id=schedule)
            assert signed.read_outcome(data, task_id="t1", epoch=1, status=status, schedule_id=schedule) == outcome
            for other in [(s, schedule) for s in TERMINAL - {status}] + [(status, "s2")]:
                with pytest.raises(SignatureError, match="its signature is wrong"):
                    signed.read_outcome(data, task_id="t1", epoch=1, status=other[0], schedule_id=other[1])


def test_a_call_is_bound_to_the_schedule_that_fired_it() -> None:
    data = signed.reseal(signed.build_call(add, (1,), {}), task_id="t1", queue_name="default", schedule_id="s1")
    for other in ("s2", None):
        with pytest.raises(SignatureError, match="its signature is wrong"):
            signed.read_call(data, task_id="t1", queue_name="default", schedule_id=other)


def test_the_body_of_one_payload_does_not_fit_the_envelope_of_another(canary: Canary) -> None:
    mine, hostile = call_of(signed, 1), call_of(unsigned, canary)
    head = mine[: 5 + 2 + 32]
    for data in (head + hostile[5:], head[:3] + b"d" + head[4:] + hostile[5:], hostile[:5] + b"\2k1" + hostile[5:]):
        with pytest.raises(SignatureError):
            load_call(signed, data)


def test_an_envelope_that_hides_its_dill_is_corrupt(canary: Canary) -> None:
    for pack, load in ROLES:
        data = pack(unsigned, canary)
        with pytest.raises(CorruptPayload, match="disagree"):
            load(unsigned, data[:3] + b"m" + data[4:])


@roles
@given(st.data())
def test_a_mutated_signed_payload_raises_nothing_else(pack: Pack, load: Load, data: st.DataObject) -> None:
    original = pack(signed, data.draw(st.sampled_from([1, "text", (1, 2), range(3)])))
    mutated = data.draw(mutations(original))
    if mutated != original:
        with pytest.raises((CorruptPayload, SignatureError)):
            load(signed, mutated)


@roles
@given(st.data())
def test_a_mutated_unsigned_payload_loads_or_raises_one_of_ours(pack: Pack, load: Load, data: st.DataObject) -> None:
    mutated = data.draw(mutations(pack(unsigned, {"a": [1, (2, "text")]})))
    # A changed letter of the function's name isn't noticed before the function is looked for.
    assert attempt(load, unsigned, mutated) in (None, CorruptPayload, SignatureError, FunctionNotFound)


@given(st.binary(max_size=80) | st.binary(max_size=80).map(b"OQ1m".__add__) | st.binary().map(b"OQ1d\2k1".__add__))
def test_garbage_is_corrupt_or_badly_signed(data: bytes) -> None:
    with pytest.raises((CorruptPayload, SignatureError)):
        load_call(signed, data)


def attempt(load: Load, manager: SerializationManager, data: bytes) -> type[OmniQError] | None:
    """What loading raised of OmniQ's errors; any other error is the test's."""
    try:
        load(manager, data)
    except OmniQError as error:
        return type(error)
    return None


def mutations(original: bytes) -> st.SearchStrategy[bytes]:
    """The payload with a byte replaced, cut off, put in, or with its end moved."""
    places = st.integers(0, len(original) - 1)
    return st.one_of(
        st.tuples(places, st.integers(0, 255)).map(lambda m: original[: m[0]] + bytes([m[1]]) + original[m[0] + 1 :]),
        places.map(lambda place: original[:place]),
        places.map(lambda place: original[:place] + original[place + 1 :]),
        st.tuples(places, st.binary(min_size=1, max_size=4)).map(lambda m: original[: m[0]] + m[1] + original[m[0] :]),
        st.binary(min_size=1, max_size=4).map(original.__add__),
    )


# ── envelopes and keys ───────────────────────────────────────────────────────


@pytest.mark.parametrize("signer", [None, Signer(SECRET)])
@pytest.mark.parametrize("format", list(Format))
def test_what_is_sealed_is_unsealed(signer: Signer | None, format: Format) -> None:
    envelope = Envelope(signer)
    for body in (b"", b"body"):
        data = envelope.seal(format, body, role=Role.CALL, binding=("t1", "q"))
        assert data.startswith(b"OQ1" + format.encode())
        assert envelope.unseal(data, role=Role.CALL, binding=("t1", "q")) == (format, body)


def test_the_header_and_the_role_are_signed_too() -> None:
    envelope = Envelope(Signer({"k1": SECRET.encode(), "k2": SECRET.encode()}))
    data = envelope.seal(Format.MSGSPEC, b"body", role=Role.CALL, binding=("t1",))
    for moved, role in (
        (data.replace(b"OQ1m", b"OQ1d"), Role.CALL),
        (data.replace(b"k1", b"k2"), Role.CALL),
        (data, Role.RESULT),
        (data, Role.ENDING),
        (data, Role.SCHEDULE),
    ):
        with pytest.raises(SignatureError, match="its signature is wrong"):
            envelope.unseal(moved, role=role, binding=("t1",))


def test_a_binding_is_more_than_its_text() -> None:
    envelope = Envelope(Signer(SECRET))
    data = envelope.seal(Format.MSGSPEC, b"body", role=Role.CALL, binding=("a", "bc"))
    for binding in (("ab", "c"), ("a", "bc", ""), ("abc",), ("call", "a", "bc")):
        with pytest.raises(SignatureError):
            envelope.unseal(data, role=Role.CALL, binding=binding)


def test_keys_rotate_without_a_gap() -> None:
    old, new = Signer(SECRET), Signer(f"k1:{OTHER}")
    both, swapped = Signer(f"default:{SECRET}, k1:{OTHER}"), Signer({"k1": OTHER.encode(), "default": SECRET.encode()})
    for writer, readers in ((old, (both, swapped)), (both, (old, swapped)), (swapped, (both, new)), (new, (swapped,))):
        data = call_of(SerializationManager(signer=writer), 1)
        for reader in readers:
            assert load_call(SerializationManager(signer=reader), data) == 1
    with pytest.raises(SignatureError):
        load_call(SerializationManager(signer=new), call_of(SerializationManager(signer=old), 1))


def test_signers_show_key_ids_and_no_secret() -> None:
    signer = Signer(f"k1:{SECRET},k0:{OTHER}")
    assert repr(signer) == "Signer(key_ids=['k1', 'k0'])"
    assert SECRET not in repr(vars(signer))


def test_keys_do_not_travel_with_what_is_pickled() -> None:
    for pickler in (pickle, dill):
        with pytest.raises(TypeError, match="signing keys aren't serialized"):
            pickler.dumps(Signer(SECRET))


@pytest.mark.parametrize(
    "keys",
    [
        "",
        "  ",
        "short",
        "k1:short",
        f"{SECRET},{OTHER}",
        f"k1:{SECRET},{OTHER}",
        f"k1:{SECRET},k1:{OTHER}",
        f"bad id:{SECRET}",
        f":{SECRET}",
        f"k1:{SECRET},",
        "k1:",
        " " * 20,
        f"k1:{' ' * 20}",
        {},
        {"k1": b"short"},
        {"k1": b" " * 20},
        {"bad id": SECRET.encode()},
        {"k" * 33: SECRET.encode()},
    ],
    ids=repr,
)
def test_malformed_keys_are_refused_without_showing_them(keys: str | dict[str, bytes]) -> None:
    with pytest.raises(ConfigError, match=r"^OMNIQ_SIGNING_KEY: ") as raised:
        Signer(keys)
    assert SECRET not in str(raised.value)
    assert OTHER not in str(raised.value)
    assert "short" not in str(raised.value)


def test_hostile_dill_is_not_run_where_dill_is_refused(canary: Canary) -> None:
    by_value = SerializationManager().pack_call(lambda: canary, (), {}, task_id="t1", queue_name="default")
    payloads = (by_value, call_of(unsigned, canary))
    for reader in (SerializationManager("msgspec"), SerializationManager(allowed_modules=[__name__])):
        for data in payloads:
            with pytest.raises(SerializationError, match="it was not decoded"):
                load_call(reader, data)
        with pytest.raises(SerializationError, match="it was not decoded"):
            reader.load_value("d", DillSerializer().dumps(canary))
