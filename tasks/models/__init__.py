"""The source systems' tables, one module per store."""

from __future__ import annotations

from tasks.models.agentos import (
    KbChunk,
    KbEmbedding,
    KbSource,
    MemoryItem,
    Project,
    ProjectRepo,
    Task,
    TaskArtifactRef,
    TaskDependency,
    TaskLineage,
    TaskRepoScope,
    WebuiMessage,
    WebuiSession,
)

__all__ = [
    "KbChunk",
    "KbEmbedding",
    "KbSource",
    "MemoryItem",
    "Project",
    "ProjectRepo",
    "Task",
    "TaskArtifactRef",
    "TaskDependency",
    "TaskLineage",
    "TaskRepoScope",
    "WebuiMessage",
    "WebuiSession",
]
