"""The document kit: the whole contract for stores that keep versioned documents and ordered index entries."""

from __future__ import annotations

from omniq.storage.documents.base import Document, Documents, Entry, JobThreads, Version, Write
from omniq.storage.documents.queue import DocumentTaskQueue
from omniq.storage.documents.results import DocumentEventStorage, DocumentResultStorage

__all__ = [
    "Document",
    "DocumentEventStorage",
    "DocumentResultStorage",
    "DocumentTaskQueue",
    "Documents",
    "Entry",
    "JobThreads",
    "Version",
    "Write",
]
