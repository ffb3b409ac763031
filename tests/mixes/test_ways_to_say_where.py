"""Arguments, config structs, `type` and `config` in YAML or a dict, and URLs in the environment say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core import tasks
from tests.core.support import SOON, working
from tests.mixes.places import CLASSES, WAYS, WITH_EVENTS, Store, Way, fields_of, way_name
from tests.mixes.support import Url, event_types, on_one_redis

pytestmark = on_one_redis


@pytest.fixture(params=CLASSES)
def store(request: pytest.FixtureRequest, urls: dict[str, Url], tmp_path: Path) -> Store:
    """An empty place in each store."""
    name: str = request.param
    return Store(name, urls[name], fields_of(name, urls[name]), tmp_path)


@pytest.mark.parametrize("way", WAYS, ids=way_name)
async def test_a_way_leads_to_the_store(store: Store, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    async with way(store, monkeypatch) as oq:
        async with working(oq, "async"):
            task_id = await oq.enqueue(tasks.add, [1, 2])
            assert await oq.get_result(task_id, timeout=SOON) == 3
        parts = [oq.task_queue.store, oq.result_store.store]
        if store.name in WITH_EVENTS:
            assert oq.event_store is not None
            parts.append(oq.event_store.store)
            assert len(await event_types(oq, task_id)) == 3
        place = store.config("task_queue").from_url(store.url)
        expected = place.file if store.name == "sqlite" else place.settings.location
        assert {part.location.removeprefix("sqlite:") for part in parts} == {expected}
