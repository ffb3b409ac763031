"""What a configuration file, a dict or the environment says: which components, and how they are configured."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from omniq.config.convert import convert
from omniq.config.logging import LoggingConfig
from omniq.config.settings import EnvConfig, RetryCount, Settings, WorkerCount, from_settings
from omniq.models.config import Moment, Name, NotBlank, NotNegative, Positive, WorkerConfig
from omniq.models.redaction import Redacted

PoolKind: TypeAlias = Literal["thread", "process", "gevent"]


class ComponentChoice(Redacted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which store, by type or URL, and its configuration; what `config` says wins over the URL."""

    type: str | None = None
    """May be left out when the URL has a scheme."""
    url: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


class WorkerChoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which worker, and how it runs."""

    type: str = Settings.DEFAULT_WORKER
    config: WorkerConfig = field(default_factory=WorkerConfig)
    sizes: dict[PoolKind, WorkerCount] = field(default_factory=dict)
    """`max_workers` for one kind of worker: wins over that of `config`."""

    def settings_for(self, kind: str) -> WorkerConfig:
        """The configuration of a worker of that kind ("thread"), of its size if it has one of its own."""
        sizes = (size for name, size in self.sizes.items() if name == kind)
        return replace(self.config, max_workers=next(sizes, self.config.max_workers))


class TaskDefaults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a task gets that says nothing itself. Durations are seconds."""

    timeout: Positive | None = Settings.TASK_TIMEOUT
    ttl: NotNegative | None = Settings.TASK_TTL
    max_retries: RetryCount = Settings.RETRY_ATTEMPTS
    retry_delay: NotNegative = Settings.RETRY_DELAY
    result_ttl: NotNegative | None = Settings.RESULT_TTL

    @classmethod
    def from_environment(cls) -> Self:
        """As OMNIQ_TASK_TIMEOUT, OMNIQ_RETRY_ATTEMPTS and the like say. Raises `ConfigError`."""
        return convert(from_settings(EnvConfig().given()).get("defaults", {}), cls)


class OmniQConfig(Redacted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be configured. A component that is None wasn't mentioned anywhere."""

    project_name: Name = Settings.PROJECT_NAME
    base_dir: str = Settings.BASE_DIR
    """Where stores that keep files put them, unless they are told where."""
    fsspec_uri: str | None = Settings.FSSPEC_URI
    """Where file stores keep their files; it wins over `base_dir` here, not over theirs."""
    task_queue: ComponentChoice | None = None
    result_store: ComponentChoice | None = None
    event_store: ComponentChoice | None = None
    worker: WorkerChoice = field(default_factory=WorkerChoice)
    defaults: TaskDefaults = field(default_factory=TaskDefaults)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    signing_key: NotBlank | None = Settings.SIGNING_KEY
    accept_unsigned_until: Moment | None = None
    """Switches signing on with a live queue: until then, what isn't signed is accepted too."""
    allowed_modules: Annotated[list[NotBlank], Meta(min_length=1)] | None = None
