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
from tasks.models.helix import AgentPrompt, HelixArtifact, HelixJob, HelixTask, SystemLog

__all__ = [
    "AgentPrompt",
    "HelixArtifact",
    "HelixJob",
    "HelixTask",
    "KbChunk",
    "KbEmbedding",
    "KbSource",
    "MemoryItem",
    "Project",
    "ProjectRepo",
    "SystemLog",
    "Task",
    "TaskArtifactRef",
    "TaskDependency",
    "TaskLineage",
    "TaskRepoScope",
    "WebuiMessage",
    "WebuiSession",
]
