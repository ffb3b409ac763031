"""The library's settings: constants without a prefix, each overridden by the environment's `OMNIQ_<NAME>`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from omniq.models.config import (
    DEFAULT_MAX_BODY,
    DEFAULT_PROJECT,
    DEFAULT_QUEUE,
    Bytes,
    Moment,
    Name,
    NotBlank,
    NotNegative,
    Positive,
    Serializer,
)
from omniq.models.redaction import redact

LogLevel: TypeAlias = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "DISABLED"]
WorkerCount: TypeAlias = Annotated[int, Meta(ge=1, le=10_000)]
RetryCount: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """`Settings.BASE_DIR` is the default; `EnvConfig().settings().BASE_DIR` is what holds in this process.

    None means: not set. Durations are seconds.
    """

    PROJECT_NAME: Name = DEFAULT_PROJECT
    BASE_DIR: str = ".omniq"
    """Where stores that keep files put them, unless they are told where."""
    FSSPEC_URI: str | None = None
    """Where file stores keep their files, such as "s3://bucket/prefix"; it wins over BASE_DIR."""
    LOG_LEVEL: LogLevel = "WARNING"
    DISABLE_LOGGING: bool = False
    COMPONENT_LOG_LEVELS: dict[str, LogLevel] | None = None
    """Levels of parts of the library, such as {"worker": "DEBUG"}; as JSON in the environment."""
    TASK_QUEUE_TYPE: str | None = None
    TASK_QUEUE_URL: str | None = None
    QUEUES: tuple[Name, ...] = (DEFAULT_QUEUE,)
    """The named queues in order of priority; comma-separated in the environment."""
    SERIALIZER: Serializer = "auto"
    MAX_BODY: Bytes = DEFAULT_MAX_BODY
    """Bytes that the call of a task, or its result, may have."""
    RESULT_STORAGE_TYPE: str | None = None
    RESULT_STORAGE_URL: str | None = None
    EVENT_STORAGE_TYPE: str | None = None
    EVENT_STORAGE_URL: str | None = None
    DEFAULT_WORKER: str = "async"
    MAX_WORKERS: WorkerCount | None = None
    THREAD_WORKERS: WorkerCount | None = None
    """Wins over MAX_WORKERS for thread workers; so do the next two for theirs."""
    PROCESS_WORKERS: WorkerCount | None = None
    GEVENT_WORKERS: WorkerCount | None = None
    TASK_TIMEOUT: Positive | None = None
    TASK_TTL: NotNegative | None = None
    RETRY_ATTEMPTS: RetryCount = 3
    RETRY_DELAY: NotNegative = 1.0
    RESULT_TTL: NotNegative | None = 86_400.0
    SIGNING_KEY: NotBlank | None = None
    """Signs payloads, and refuses unsigned ones."""
    ACCEPT_UNSIGNED_UNTIL: Moment | None = None
    """A time, such as "2030-12-31T08:30Z", until which unsigned payloads are accepted all the same."""
    ALLOWED_MODULES: Annotated[tuple[NotBlank, ...], Meta(min_length=1)] | None = None
    """The only modules from which workers import functions; comma-separated in the environment."""

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in redact(asdict(self)).items())
        return f"{type(self).__name__}({fields})"
