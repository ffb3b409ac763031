"""Texts that tasks bring along are cut: messages, tracebacks, names, events."""

from __future__ import annotations

import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskFailed
from omniq.models import EventType
from omniq.storage.records import ResultRecord
from omniq.texts import MAX_MESSAGE, MAX_NAME, MAX_TRACEBACK, cut, shown_name

from tests.core import payloads
from tests.core.support import (
    KINDS,
    SOON,
    Place,
    front_door,
    working,
)


class TestTexts:
    def test_a_text_keeps_its_head_and_its_tail(self) -> None:
        text = "head" + "x" * 20_000_000 + "tail"
        short = cut(text, 1000)
        assert len(short) <= 1000
        assert short.startswith("head")
        assert short.endswith("tail")
        assert "characters cut" in short
        removed = int(short.split("… ")[1].split(" ")[0].replace(",", ""))
        assert removed == len(text) - (len(short) - len(f" … {removed:,} characters cut … "))

    def test_a_short_text_stays_as_it_is(self) -> None:
        assert cut("x" * 1000, 1000) == "x" * 1000

    def test_a_name_is_printable_and_short(self) -> None:
        assert shown_name("shop.tasks:größe") == "shop.tasks:größe"
        assert shown_name("a\0b\x1b\ud83d") == "a�b��"
        assert len(shown_name("x" * 10_000)) <= MAX_NAME


class TestLongTexts:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_an_exceptions_text_is_cut(self, place: Place, kind: str) -> None:
        async with front_door(place) as oq, working(oq, kind):
            task_id = await oq.enqueue(payloads.fail_at_length, [20_000_000])
            with pytest.raises(TaskFailed) as failed:
                await oq.get_result(task_id, timeout=2 * SOON)
            (record,) = await oq.result_store.store.get([task_id])
        message, traceback = failed.value.error_message, failed.value.remote_traceback
        assert len(message) <= MAX_MESSAGE
        assert len(traceback) <= MAX_TRACEBACK
        for text in (message, traceback.rstrip()):
            assert "characters cut" in text
            assert text.endswith("tail")
        assert message.startswith("head")
        assert "fail_at_length" in traceback
        assert isinstance(record, ResultRecord)
        assert len(record.body) < MAX_MESSAGE + MAX_TRACEBACK + 1000

    async def test_the_name_of_an_error_is_cut(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(payloads.fail_with_a_long_name, [1_000_000])
        async with working(oq, "thread"):
            with pytest.raises(TaskFailed) as failed:
                await oq.get_result(task_id, timeout=SOON)
        assert failed.value.error_type.startswith("tests.core.payloads.xxx")
        assert len(failed.value.error_type) <= MAX_NAME

    async def test_the_data_of_events_is_cut(self, place: Place) -> None:
        async with front_door(place, events=True) as oq:
            oq.events.log(EventType.RETRY, task_id="text", data={"why": "x" * 1_000_000, "n": 1})
            oq.events.log(EventType.RETRY, task_id="list", data={"why": [0] * 1_000_000})
            oq.events.log(EventType.RETRY, task_id="odd", data={"why": object()})
            oq.events.log(EventType.RETRY, task_id="plain", data={"why": "because"})
            found = {event.task_id: event.data for event in await oq.list_events()}
            assert oq.events.dropped == 1
        assert found["plain"] == {"why": "because"}
        assert len(found["text"]["why"]) <= 1024
        assert found["text"]["n"] == 1
        assert list(found["list"]) == ["omitted_bytes"]
        assert found.keys() == {"plain", "text", "list"}
