"""What a server promises as it is set up now: asked of the server itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from omniq.storage.guarantees import Guarantees

if TYPE_CHECKING:
    from omniq_postgres.connection import Database, Session

_ASKED: Final = ("fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names")
_LOOK = f"select {', '.join(f'current_setting({name!r})' for name in _ASKED)}"


async def look_up_guarantees(database: Database) -> Guarantees:
    """Ask the server. Raises `StoreUnavailable`."""

    async def look(session: Session) -> dict[str, str]:
        (row,) = await session.fetch(_LOOK)
        return dict(zip(_ASKED, row, strict=True))

    return judge(await database.run(look), push=database.listens)


def judge(settings: dict[str, str], *, push: bool) -> Guarantees:
    """What follows from a server's settings."""
    commit = settings["synchronous_commit"]
    waits = commit != "off"
    durable = waits and settings["fsync"] == settings["full_page_writes"] == "on"
    return Guarantees(
        survives_process_kill=waits,
        survives_power_loss=durable,
        survives_failover=durable and settings["synchronous_standby_names"] != "" and commit in ("on", "remote_apply"),
        clock="server",
        push=push,
        atomic_results=True,
        fenced=waits,  # else a server could forget a claim in a crash, and give out its epoch again
        evidence=tuple(f"{name}={value}" for name, value in settings.items()),
    )
