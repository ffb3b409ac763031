"""Who may have written what this process reads: signing keys, dill, and the modules that may be run."""

from __future__ import annotations

from omniq.config.env import EnvConfig
from omniq.models.config import Serializer
from omniq.models.redaction import Redacted
from omniq.serialization.manager import SerializationManager
from omniq.serialization.signing import Signer


class Security(Redacted, frozen=True, kw_only=True, array_like=True):
    """What a `SerializationManager` is made of; it crosses to child processes, and never to logs."""

    serializer: Serializer = "auto"
    signing_key: str | None = None
    allowed_modules: list[str] | None = None

    @classmethod
    def from_environment(cls, serializer: Serializer = "auto") -> Security:
        """As OMNIQ_SIGNING_KEY and OMNIQ_ALLOWED_MODULES say. Raises `ConfigError`."""
        settings = EnvConfig().settings()
        allowed = settings.ALLOWED_MODULES
        return cls(
            serializer=serializer,
            signing_key=settings.SIGNING_KEY,
            allowed_modules=None if allowed is None else list(allowed),
        )

    def manager(self) -> SerializationManager:
        """The serialization that follows from it. Raises `ConfigError` when a key is too short."""
        signer = Signer(self.signing_key) if self.signing_key else None
        return SerializationManager(self.serializer, signer, self.allowed_modules)
