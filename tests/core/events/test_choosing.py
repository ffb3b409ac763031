"""Which events are kept is said in the environment, in files, in code and at run time; mistakes are named."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.config import ConfigProvider, EventsConfig, OmniQConfig, Settings
from omniq.errors import ConfigError, InvalidTask
from omniq.events import AsyncEventLogger
from omniq.models import EventLevel, EventType
from omniq.testing import ReferenceEventStore

from tests.core import tasks
from tests.core.support import SOON, Place, blocking_door, front_door, working

E = EventType


def load(environ: dict[str, str], source: Any = None) -> EventsConfig:
    """What is kept, as the environment and a source say."""
    return ConfigProvider(source or {}, environ=environ).load().events


class TestConfiguration:
    def test_everything_is_kept_for_a_week_unless_it_is_said_otherwise(self) -> None:
        config = load({})
        assert config == EventsConfig()
        assert config.kept == frozenset(EventType)
        assert (config.retention, config.buffer) == (7 * 86_400, 10_000)

    def test_in_the_environment(self) -> None:
        environ = {
            "OMNIQ_EVENT_TYPES": "error, Retry,complete",
            "OMNIQ_EVENT_LEVEL": "warning",
            "OMNIQ_EVENT_RETENTION": "3600",
            "OMNIQ_EVENT_BUFFER": "50",
        }
        config = load(environ)
        assert config.types == (E.ERROR, E.RETRY, E.COMPLETE)
        assert config.kept == {E.ERROR, E.RETRY}
        assert (config.level, config.retention, config.buffer) == (EventLevel.WARNING, 3600, 50)
        assert load({"OMNIQ_EVENT_LOGGING": "off"}).kept == frozenset()
        assert load({"OMNIQ_EVENT_RETENTION": "null"}).retention is None

    def test_in_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "omniq.yaml"
        file.write_text("event_store: sqlite\nevents: {types: [ERROR, cancelled], level: info, retention: null}\n")
        config = load({"OMNIQ_EVENT_LEVEL": "ERROR"}, file)
        assert config.kept == {E.ERROR}
        assert config.retention is None

    @pytest.mark.parametrize(
        ("variable", "text", "complaint"),
        [
            ("EVENT_TYPES", "ERROR,COMPLET", "did you mean 'COMPLETE'"),
            ("EVENT_TYPES", ",", "expected list of length >= 1"),
            ("EVENT_LEVEL", "WARN", "did you mean 'WARNING'"),
            ("EVENT_LOGGING", "perhaps", "expected bool"),
            ("EVENT_RETENTION", "-1", "expected float > 0"),
            ("EVENT_BUFFER", "0", "expected int >= 1"),
        ],
    )
    def test_a_mistake_in_the_environment(self, variable: str, text: str, complaint: str) -> None:
        with pytest.raises(ConfigError, match=f"^OMNIQ_{variable}.*{complaint}"):
            load({f"OMNIQ_{variable}": text})

    @pytest.mark.parametrize(
        ("events", "complaint"),
        [
            ({"types": ["RUNNING", "ENQUEUD"]}, r"^events.types\[.*"),
            ({"levl": "INFO"}, "^events.levl: unknown name, did you mean 'level'"),
            ({"level": 1}, "^events.level: expected"),
        ],
    )
    def test_a_mistake_in_a_file(self, events: Any, complaint: str) -> None:
        with pytest.raises(ConfigError, match=complaint):
            load({}, {"events": events})

    def test_every_setting_of_events_is_documented(self) -> None:
        page = (Path(__file__).parents[3] / "docs" / "events.md").read_text("utf-8")
        names = [field.name for field in dataclasses.fields(Settings) if field.name.startswith("EVENT_")]
        assert [name for name in names if f"`OMNIQ_{name}`" not in page] == []
        assert [type_ for type_ in EventType if f"`{type_}`" not in page] == [E.UNKNOWN]
        assert [type_ for type_ in EventType if f"| `{type_}` | {type_.level} |" not in page] == [E.UNKNOWN]


class TestAtRunTime:
    async def test_only_what_is_chosen_is_kept(self, place: Place) -> None:
        async with front_door(place, events=True) as oq, working(oq, "async"):
            oq.events.configure(types=["complete", E.CANCELLED], level=EventLevel.INFO)
            await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON)
            oq.events.configure(enabled=False)
            await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON)
            oq.events.configure(enabled=True, types=list(EventType), level="debug")
            await oq.task_queue.pause_queue("low")
            kinds = [event.type for event in await oq.list_events(oldest_first=True)]
        assert kinds == [E.WORKER_STARTED, E.COMPLETE, E.QUEUE_PAUSED]

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            ({"types": ["COMPLET"]}, "did you mean 'COMPLETE'"),
            ({"types": "COMPLETE"}, "^events.types: expected list"),
            ({"types": []}, "^events.types: expected list of length >= 1"),
            ({"types": 7}, "^events.types: expected list"),
            ({"types": [None]}, r"^events.types\[0\]"),
            ({"level": "loud"}, "^events.level: expected one of"),
            ({"level": b"INFO"}, "^events.level: "),
            ({"enabled": "yes"}, "^events.enabled: expected bool"),
        ],
    )
    def test_a_mistake_changes_nothing(self, arguments: Any, complaint: str) -> None:
        logger = AsyncEventLogger(ReferenceEventStore(), EventsConfig())
        with pytest.raises(ConfigError, match=complaint):
            logger.configure(**arguments)
        assert logger.config == EventsConfig()

    def test_blocking_code_chooses_too(self, place: Place) -> None:
        with blocking_door(place, events=True) as oq:
            oq.events.configure(level="INFO")
            oq.cancel(oq.enqueue(tasks.nothing))
            assert [event.type for event in oq.events()] == [E.CANCELLED]
            oq.events.log(E.RETRY, task_id="by hand")
            oq.events.flush()
            assert [event.task_id for event in oq.list_events(type=E.RETRY)] == ["by hand"]
            for name in ("error", "ERROR"):
                oq.events.log(name, task_id="by name")  # type: ignore[arg-type]  # that is what is tested
            assert [event.type for event in oq.events(task_id="by name")] == [E.ERROR] * 2

    async def test_a_type_that_there_is_not_cannot_be_logged(self) -> None:
        logger = AsyncEventLogger(ReferenceEventStore(), EventsConfig(enabled=False))
        logger.log(E.RETRY)
        with pytest.raises(InvalidTask, match="^type: 'DONE'"):
            logger.log("DONE")  # type: ignore[arg-type]  # that is what is tested
        await logger.close()

    @pytest.mark.parametrize("front", [AsyncOmniQ, OmniQ])
    def test_a_configuration_reaches_the_logger(self, front: Any, tmp_path: Path) -> None:
        store = {"type": "sqlite", "config": {"base_dir": str(tmp_path)}}
        config = {"task_queue": store, "event_store": store, "events": {"level": "ERROR"}}
        oq = front(config=config)
        events = oq.events if front is AsyncOmniQ else oq.events.aio
        assert events.logger.config.level is EventLevel.ERROR
        assert AsyncOmniQ(config=OmniQConfig()).events.dropped == 0


def test_the_levels_are_in_order() -> None:
    kept = [level.types for level in EventLevel]
    assert all(more > fewer for more, fewer in pairwise(kept))
    assert EventLevel.ERROR.types == {E.ERROR, E.DEAD_LETTERED}
