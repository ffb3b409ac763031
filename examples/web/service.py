"""A web service that hands work to workers, shows how far it is, and cancels it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from msgspec import json
from omniq.errors import ResultExpired, TaskNotFound
from omniq.models import TaskResult
from primes import count_primes, oq
from pydantic import BaseModel, Field


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    """Connect at the start, so that a queue that can't be reached is told of then. No worker runs in here."""
    async with oq:
        yield


app = FastAPI(lifespan=connected)


class Wanted(BaseModel):
    """What a client asks for."""

    limit: int = Field(gt=0, le=10_000_000)


@app.get("/")
async def page() -> FileResponse:
    """A page with a form and a bar."""
    return FileResponse(Path(__file__).with_name("page.html"))


@app.post("/counts", status_code=202)
async def start(wanted: Wanted) -> dict[str, str]:
    """Have primes counted: the answer comes at once, and tells where the result will be."""
    task_id = await count_primes.enqueue(wanted.limit)
    return {"id": task_id, "result": f"/counts/{task_id}", "events": f"/counts/{task_id}/events"}


@app.get("/counts/{task_id}")
async def look(task_id: str) -> dict[str, object]:
    """How things stand now."""
    return shown(await oq.peek_result(task_id))


@app.get("/counts/{task_id}/events")
async def follow(task_id: str) -> StreamingResponse:
    """The same as server-sent events, whenever it changes, up to the end."""
    await oq.peek_result(task_id)  # so that one that isn't there is told of before the stream begins

    async def events() -> AsyncIterator[bytes]:
        async for result in oq.watch(task_id):
            yield b"data: " + json.encode(shown(result)) + b"\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@app.delete("/counts/{task_id}")
async def cancel(task_id: str) -> dict[str, bool]:
    """Stop it, if it hasn't ended."""
    return {"cancelled": await oq.cancel(task_id)}


@app.exception_handler(TaskNotFound)
@app.exception_handler(ResultExpired)
async def gone(request: Request, error: Exception) -> JSONResponse:
    """No such task, or not any more."""
    return JSONResponse({"detail": "there is no such count"}, 404)


def shown(result: TaskResult) -> dict[str, object]:
    """What a client is told. An error's text is for the log: it may hold what others have sent."""
    told: dict[str, object] = {"status": result.status.value}
    if result.progress is not None:
        told |= {"fraction": result.progress.fraction, "message": result.progress.message}
    if result.status == "success":
        told["primes"] = result.value
    return told
