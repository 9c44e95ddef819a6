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
from tasks.models.records import ExecutionStatus, Stage, TaskStatus, TestRecord

__all__ = [
    "AgentPrompt",
    "ExecutionStatus",
    "HelixArtifact",
    "HelixJob",
    "HelixTask",
    "KbChunk",
    "KbEmbedding",
    "KbSource",
    "MemoryItem",
    "Project",
    "ProjectRepo",
    "Stage",
    "SystemLog",
    "Task",
    "TaskArtifactRef",
    "TaskDependency",
    "TaskLineage",
    "TaskRepoScope",
    "TaskStatus",
    "TestRecord",
    "WebuiMessage",
    "WebuiSession",
]
