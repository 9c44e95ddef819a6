"""Pages of AgentOS's tables, one module for each subject."""

from __future__ import annotations

from tasks.agentos.admin import knowledge, memory, projects, sessions, tasks

__all__ = ["knowledge", "memory", "projects", "sessions", "tasks"]
