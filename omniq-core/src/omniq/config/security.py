"""Who may have written what this process reads: signing keys, dill, and the modules that may be run."""

from __future__ import annotations

from msgspec.structs import replace

from omniq.config.settings import EnvConfig
from omniq.errors import ConfigError
from omniq.models.config import DEFAULT_PROJECT, Serializer
from omniq.models.redaction import Redacted
from omniq.serialization.manager import SerializationManager
from omniq.serialization.signing import Signer


class Security(Redacted, frozen=True, kw_only=True, array_like=True):
    """What a `SerializationManager` is made of; it crosses to child processes, and never to logs.

    It is one for a task queue, its results and its workers: what an OmniQ is configured with holds for the
    components that it is given too, unless they were given a `Security` of their own.
    """

    serializer: Serializer = "auto"
    signing_key: str | None = None
    allowed_modules: list[str] | None = None
    accept_unsigned_until: float | None = None
    """Seconds since the epoch until which unsigned payloads are accepted although there is a key."""

    @classmethod
    def from_environment(cls) -> Security:
        """As OMNIQ_SIGNING_KEY, OMNIQ_SERIALIZER, OMNIQ_ALLOWED_MODULES and OMNIQ_ACCEPT_UNSIGNED_UNTIL say.

        Raises `ConfigError`.
        """
        settings = EnvConfig().settings()
        allowed, until = settings.ALLOWED_MODULES, settings.ACCEPT_UNSIGNED_UNTIL
        return cls(
            serializer=settings.SERIALIZER,
            signing_key=settings.SIGNING_KEY,
            allowed_modules=None if allowed is None else list(allowed),
            accept_unsigned_until=None if until is None else until.timestamp(),
        )

    def narrowed(self, serializer: Serializer) -> Security:
        """The same; without dill if either this or a component's own configuration turns it off."""
        return replace(self, serializer="msgspec") if serializer == "msgspec" else self

    def manager(self, project: str = DEFAULT_PROJECT) -> SerializationManager:
        """The serialization that follows from it for a project. Raises `ConfigError` for keys that are no good."""
        if self.allowed_modules is not None and not any(name.strip() for name in self.allowed_modules):
            raise ConfigError("allowed_modules: none given; leave it out to allow all")
        signer = None if self.signing_key is None else Signer(self.signing_key)
        return SerializationManager(
            self.serializer,
            signer,
            self.allowed_modules,
            project=project,
            unsigned_until=self.accept_unsigned_until,
        )
