"""Waking those who wait, in one process and between processes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from omniq.errors import StoreUnavailable
from omniq.models.task import new_id
from omniq.storage import channel as channels
from omniq.storage import wakeups as module
from omniq.storage.channel import PATIENCE, QUIET_S, Channel, IdleWorkers, next_message
from omniq.storage.wakeups import ANYTHING, DEAF_WAIT, News, Subscription, Wakeups

LONG = 60.0
SOON = 5.0


@pytest.fixture
def wakeups() -> Wakeups:
    return Wakeups.at(f"test:{new_id()}")


async def ended(task: asyncio.Task[Any]) -> bool:
    done, _ = await asyncio.wait([task], timeout=SOON)
    return bool(done)


async def waiting(wakeups: Wakeups, *queues: str, timeout: float = LONG) -> asyncio.Task[None]:
    task = asyncio.create_task(wakeups.for_tasks(queues, timeout))
    await asyncio.sleep(0)
    return task


class TestTasks:
    async def test_a_wait_ends_at_news_of_one_of_its_queues(self, wakeups: Wakeups) -> None:
        wait = await waiting(wakeups, "a", "b")
        wakeups.tell(News(due={"c": 0.0}))
        assert not (await asyncio.wait([wait], timeout=0.02))[0]
        wakeups.tell(News(due={"b": 0.0}))
        assert await ended(wait)

    async def test_what_is_told_in_the_same_step_is_heard(self, wakeups: Wakeups) -> None:
        wait = asyncio.create_task(wakeups.for_tasks(["a"], LONG))
        await asyncio.sleep(0)
        wakeups.tell(News(due={"a": 0.0}))
        assert await ended(wait)

    async def test_a_task_that_is_due_later_ends_a_wait_then(self, wakeups: Wakeups) -> None:
        wait = await waiting(wakeups, "a")
        began = time.monotonic()
        wakeups.tell(News(due={"a": 0.05}))
        assert await ended(wait)
        assert time.monotonic() - began >= 0.05

    @pytest.mark.parametrize("seconds", [1e300, float("inf"), float("nan")])
    async def test_a_time_that_makes_no_sense_ends_no_wait(self, wakeups: Wakeups, seconds: float) -> None:
        async def next_due(_: object) -> dict[str, float]:
            return {"a": seconds}

        began = time.monotonic()
        await wakeups.for_tasks(["a"], 0.02, next_due)
        if seconds > 0:
            wakeups.tell(News(due={"a": seconds}))
            await wakeups.for_tasks(["a"], 0.02)
        assert time.monotonic() - began >= (0.04 if seconds > 0 else 0.02)

    async def test_a_wait_that_begins_later_knows_what_will_be_due(self, wakeups: Wakeups) -> None:
        wakeups.tell(News(due={"a": 0.05}))
        assert await ended(await waiting(wakeups, "a"))

    async def test_what_has_come_due_ends_one_round_of_waits_only(self, wakeups: Wakeups) -> None:
        wakeups.tell(News(due={"a": 0.01}))
        assert await ended(await waiting(wakeups, "a"))
        again = await waiting(wakeups, "a")
        assert not (await asyncio.wait([again], timeout=0.05))[0]
        again.cancel()

    async def test_the_store_is_asked_for_what_was_there_before(self, wakeups: Wakeups) -> None:
        asked: list[list[str]] = []

        async def next_due(queues: object) -> dict[str, float]:
            asked.append(list(queues))  # type: ignore[call-overload]
            return {"a": 0.01}

        async with asyncio.timeout(SOON):
            await wakeups.for_tasks(["a", "b"], LONG, next_due)
        assert asked == [["a", "b"]]

    async def test_a_wait_ends_after_its_timeout(self, wakeups: Wakeups) -> None:
        began = time.monotonic()
        await wakeups.for_tasks(["a"], 0.02)
        assert 0.02 <= time.monotonic() - began < SOON

    async def test_another_thread_can_tell(self, wakeups: Wakeups) -> None:
        wait = await waiting(wakeups, "a")
        threading.Thread(target=wakeups.tell, args=(News(due={"a": 0.0}),)).start()
        assert await ended(wait)

    async def test_a_clock_that_moves_wakes_everybody(self, wakeups: Wakeups) -> None:
        wait = await waiting(wakeups, "a")
        module.wake_all()
        assert await ended(wait)

    async def test_nothing_is_kept_of_waits_that_are_over(self, wakeups: Wakeups) -> None:
        wait = await waiting(wakeups, "a")
        wait.cancel()
        await asyncio.wait([wait])
        following(wakeups, "t").leave("t")
        assert not wakeups._by_queue
        assert not wakeups._by_task


def following(wakeups: Wakeups, *ids: str) -> Subscription:
    news = wakeups.subscribe()
    for id_ in ids:
        news.follow(id_)
    return news


class TestResults:
    async def test_what_is_followed_is_told_at_once(self, wakeups: Wakeups) -> None:
        assert await following(wakeups, "t", "u").told() == {"t", "u"}

    async def test_it_tells_which_of_them_may_have_come(self, wakeups: Wakeups) -> None:
        news = following(wakeups, "t", "u")
        await news.told()
        told = asyncio.create_task(news.told())
        await asyncio.sleep(0)
        wakeups.tell(News(ended=["x"]))
        assert not (await asyncio.wait([told], timeout=0.02))[0]
        wakeups.tell(News(ended=["u", "x"]))
        assert await asyncio.wait_for(told, SOON) == {"u"}

    async def test_nothing_is_lost_between_two_answers(self, wakeups: Wakeups) -> None:
        news = following(wakeups, "a", "b", "c")
        await news.told()
        wakeups.tell(News(ended=["a"]))
        assert await asyncio.wait_for(news.told(), SOON) == {"a"}
        wakeups.tell(News(ended=["b"]))
        wakeups.tell(News(ended=["c"]))
        assert await asyncio.wait_for(news.told(), SOON) == {"b", "c"}

    @pytest.mark.parametrize("anything", [ANYTHING, News(ended=None)])
    async def test_news_of_anything_tell_of_all(self, wakeups: Wakeups, anything: News) -> None:
        news = following(wakeups, "t", "u")
        await news.told()
        wakeups.tell(anything)
        assert await asyncio.wait_for(news.told(), SOON) == {"t", "u"}

    async def test_what_is_left_is_told_no_more(self, wakeups: Wakeups) -> None:
        news = following(wakeups, "t", "u")
        await news.told()
        news.leave("t")
        wakeups.tell(News(ended=["t", "u"]))
        assert await asyncio.wait_for(news.told(), SOON) == {"u"}


class Air:
    """What carries messages between two processes, of which one is this test."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[News] = asyncio.Queue()
        self.heard: asyncio.Queue[News | None] = asyncio.Queue()
        self.listens = 0

    async def send(self, news: News, tasks: int) -> None:
        await self.sent.put(news)

    async def listen(self) -> AsyncIterator[News]:
        self.listens += 1
        while (news := await self.heard.get()) is not None:
            yield news
        raise StoreUnavailable("the connection is lost")


@pytest.fixture
async def air() -> Air:
    return Air()


@pytest.fixture
async def channel(wakeups: Wakeups, air: Air) -> AsyncIterator[Channel]:
    channel = Channel(wakeups, send=air.send, listen=air.listen)
    yield channel
    await channel.close()


class TestChannel:
    async def test_the_first_news_go_at_once_and_the_next_together(self, channel: Channel, air: Air) -> None:
        async with asyncio.timeout(SOON):
            channel.tell(News(due={"a": 0.0}))
            assert await air.sent.get() == News({"a": 0.0}, [])
            channel.tell(News(due={"a": 5.0}))
            channel.tell(News(due={"a": 3.0, "b": 0.0}, ended=["t"]))
            assert await air.sent.get() == News({"a": 3.0, "b": 0.0}, ["t"])

    async def test_news_for_which_somebody_is_here_wait_for_others(
        self, channel: Channel, air: Air, wakeups: Wakeups, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One task, and one worker that waits here for it; then two tasks, and a result that nobody here waits for."""
        monkeypatch.setattr(channels, "SEND_INTERVAL", LONG)
        wait = await waiting(wakeups, "a")
        channel.tell(News(due={"a": 0.0}), tasks=1)
        assert await ended(wait)
        for urgent, tasks in ((News(due={"a": 0.0}), 2), (News(ended=["t"]), 1)):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(air.sent.get(), 0.05)
            again = await waiting(wakeups, "a")
            channel.tell(urgent, tasks=tasks)
            assert await asyncio.wait_for(air.sent.get(), SOON) == News(urgent.due or {"a": 0.0}, urgent.ended or [])
            again.cancel()
            wait = await waiting(wakeups, "a")
            channel.tell(News(due={"a": 0.0}), tasks=1)
            assert await ended(wait)

    @pytest.mark.parametrize("somebody_looked", [True, False])
    async def test_a_call_is_passed_on_unless_somebody_here_looked(
        self, wakeups: Wakeups, air: Air, somebody_looked: bool
    ) -> None:
        called: asyncio.Queue[str] = asyncio.Queue()
        channel = Channel(wakeups, listen=air.listen, call=called.put)
        hearing = asyncio.create_task(channel.hear(LONG))
        await air.heard.put(News())
        assert await ended(hearing)
        wait = await waiting(wakeups, "a")
        await air.heard.put(News(due={"a": 0.0}, is_call=True))
        assert await ended(wait)  # but whoever is woken may have no slot free
        if somebody_looked:
            channel.look(["a"])
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(called.get(), 5 * channels.ANSWER_TIME)
        else:
            assert await asyncio.wait_for(called.get(), SOON) == "a"
        await channel.close()

    async def test_what_others_tell_ends_a_wait(self, channel: Channel, air: Air) -> None:
        wait = asyncio.create_task(channel.for_tasks(["a"], LONG))
        await air.heard.put(News())
        assert await ended(wait)  # it hears now, and looks at what it may have missed
        assert channel.live
        wait = asyncio.create_task(channel.for_tasks(["a"], LONG))
        await asyncio.sleep(0)
        await air.heard.put(News(due={"a": 0.0}))
        assert await ended(wait)

    async def test_a_wait_is_short_while_nobody_can_be_heard(self, channel: Channel) -> None:
        async with asyncio.timeout(SOON):
            await channel.hear(LONG)
        assert not channel.live
        assert DEAF_WAIT < SOON

    async def test_it_listens_again_after_a_loss(self, channel: Channel, air: Air) -> None:
        hearing = asyncio.create_task(channel.hear(LONG))
        await air.heard.put(News())
        assert await ended(hearing)
        hearing = asyncio.create_task(channel.hear(LONG))
        await asyncio.sleep(0)
        await air.heard.put(None)
        assert await ended(hearing)  # it learns that nobody is heard any more
        await air.heard.put(News())
        async with asyncio.timeout(SOON):
            while not channel.live:
                await channel.hear(0.01)
        assert air.listens == 2

    async def test_it_listens_anew_when_somebody_first_waits_for_a_result(self, channel: Channel, air: Air) -> None:
        wait = asyncio.create_task(channel.for_tasks(["a"], LONG))
        await air.heard.put(News())
        assert await ended(wait)
        assert not channel.hears_results
        wait = asyncio.create_task(channel.for_tasks(["a"], LONG))
        hearing = asyncio.create_task(channel.hear(LONG))
        assert await ended(wait)  # and looks at what may not have been heard meanwhile
        await air.heard.put(News())
        assert await ended(hearing)
        assert channel.hears_results
        await channel.hear(0.0)
        assert air.listens == 2

    @pytest.mark.parametrize("turns", range(5))
    async def test_a_first_wait_for_a_result_may_be_cancelled_at_any_time(
        self, channel: Channel, air: Air, turns: int
    ) -> None:
        wait = asyncio.create_task(channel.for_tasks(["a"], LONG))
        await air.heard.put(News())
        assert await ended(wait)
        hearing = asyncio.create_task(channel.hear(LONG))
        for _ in range(turns):
            await asyncio.sleep(0)
        hearing.cancel()
        await asyncio.wait([hearing])
        wait = asyncio.create_task(channel.for_tasks(["a"], SOON))
        await air.heard.put(News())
        await air.heard.put(News(due={"a": 0.0}))
        assert await ended(wait)
        async with asyncio.timeout(SOON):
            while not channel.live:
                await channel.for_tasks(["a"], 0.01)

    async def test_a_connection_that_is_being_opened_is_not_cut(self, channel: Channel, air: Air) -> None:
        wait = asyncio.create_task(channel.for_tasks(["a"], LONG))
        await asyncio.sleep(0.01)
        hearing = asyncio.create_task(channel.hear(LONG))
        await asyncio.sleep(0.01)
        assert air.listens == 1
        await air.heard.put(News())  # it is there, without results: so it is opened anew
        await air.heard.put(News())
        assert await ended(wait)
        assert await ended(hearing)
        assert air.listens == 2

    async def test_nothing_is_listened_to_after_the_end(self, channel: Channel, air: Air) -> None:
        await channel.close()
        await channel.hear(0.0)
        assert air.listens == 0

    async def test_closing_sends_what_is_left(self, channel: Channel, air: Air) -> None:
        channel.tell(News(due={"a": 0.0}))
        channel.tell(News(ended=["t"]))
        await channel.close()
        assert [air.sent.get_nowait() for _ in range(air.sent.qsize())] == [News({"a": 0.0}, ["t"])]


class TestIdleWorkers:
    async def test_only_who_waits_for_long_is_noted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(channels, "IDLE_AFTER", 0.2)
        noted: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        idle = IdleWorkers(
            lambda worker, queues: noted.put(("waits", worker)), lambda worker: noted.put(("leaves", worker))
        )
        until = time.monotonic() + 3 * channels.IDLE_AFTER
        while time.monotonic() < until:  # it has a task again and again
            idle.waits("busy", ["a"])
            await asyncio.sleep(channels.IDLE_AFTER / 20)
            idle.waits("busy", None)
        assert noted.empty()
        idle.waits("idle", ["a"])
        assert await asyncio.wait_for(noted.get(), SOON) == ("waits", "idle")
        idle.waits("idle", None)
        assert await asyncio.wait_for(noted.get(), SOON) == ("leaves", "idle")
        await idle.close()


class TestSilence:
    @pytest.mark.parametrize("answers", [True, False])
    async def test_a_server_is_asked_and_given_up_if_it_stays_silent(self, answers: bool) -> None:
        done: list[float | str] = []

        async def receive(seconds: float) -> str | None:
            done.append(seconds)
            return "answer" if answers and "asked" in done else None

        async def ask() -> None:
            done.append("asked")

        if answers:
            assert await next_message(receive, ask) == "answer"
        else:
            with pytest.raises(TimeoutError):
                await next_message(receive, ask)
        assert done[:3] == [QUIET_S, "asked", PATIENCE]
