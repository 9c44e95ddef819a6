"""Models of AgentOS: tasks, projects, sessions, knowledge and memory (see docs/platforms/agentos.md).

The database enforces keys, checks and cascades. The relations have no constraint here, because a page must also show
rows whose reference is missing.
"""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from opsconsole.stores.fields import RawTextField, RawTimestampField, StoreForeignKey
from opsconsole.stores.models import StoreModel
from opsconsole.timestamps import current_timestamp


class Task(StoreModel):
    store = "agentos"
    added_by = dict.fromkeys(("route_plan_json", "requirements_json", "selected_instance_id", "router_version"), 12)

    task_id = models.TextField(_("task"), primary_key=True)
    title = models.TextField(_("title"))
    status = models.TextField(_("status"), null=True, blank=True, default="created")
    session_id = models.TextField(_("session"), null=True, blank=True)
    created_at = RawTimestampField(_("created at"), null=True, blank=True, default=current_timestamp)
    updated_at = RawTimestampField(_("updated at"), null=True, blank=True, default=current_timestamp)
    created_by = models.TextField(_("created by"), null=True, blank=True)
    metadata = RawTextField(_("metadata"), null=True, blank=True)
    route_plan_json = RawTextField(_("route plan"), null=True, blank=True)
    requirements_json = RawTextField(_("requirements"), null=True, blank=True)
    selected_instance_id = models.TextField(_("selected instance"), null=True, blank=True)
    router_version = models.TextField(_("router version"), null=True, blank=True)

    class Meta:
        managed = False
        db_table = "tasks"
        verbose_name = _("task")
        verbose_name_plural = _("tasks")

    def __str__(self) -> str:
        return str(self.__dict__.get("title") or self.task_id)


class TaskLineage(StoreModel):
    """An origin or a result of a task."""

    store = "agentos"

    class Kind(models.TextChoices):
        NL_REQUEST = "nl_request", _("natural-language request")
        INTENT = "intent", _("intent")
        EXECUTION_REQUEST = "execution_request", _("execution request")
        COMMIT = "commit", _("commit")

    lineage_id = models.BigAutoField(_("lineage"), primary_key=True)
    task = StoreForeignKey(Task, verbose_name=_("task"))
    kind = models.TextField(_("kind"), choices=Kind)
    ref_id = models.TextField(_("reference"))
    phase = models.TextField(_("phase"), null=True, blank=True)
    created_at = RawTimestampField(_("created at"), null=True, blank=True, default=current_timestamp)
    metadata = RawTextField(_("metadata"), null=True, blank=True)

    class Meta:
        managed = False
        db_table = "task_lineage"
        verbose_name = _("task lineage")
        verbose_name_plural = _("task lineage")

    def __str__(self) -> str:
        return f"{self.kind} {self.ref_id}"


class TaskRepoScope(StoreModel):
    """The part of a repository that a task may change."""

    store = "agentos"

    class Scope(models.TextChoices):
        FULL = "full", _("full")
        PATHS = "paths", _("paths")
        READ_ONLY = "read_only", _("read only")

    scope_id = models.BigAutoField(_("scope entry"), primary_key=True)
    task = StoreForeignKey(Task, verbose_name=_("task"))
    repo_id = models.TextField(_("repository"))
    scope = models.TextField(_("scope"), null=True, blank=True, default=Scope.FULL, choices=Scope)
    path_filters = RawTextField(_("path filters"), null=True, blank=True)
    created_at = RawTimestampField(_("created at"), null=True, blank=True, default=current_timestamp)
    metadata = RawTextField(_("metadata"), null=True, blank=True)

    class Meta:
        managed = False
        db_table = "task_repo_scope"
        verbose_name = _("task's repository scope")
        verbose_name_plural = _("tasks' repository scopes")

    def __str__(self) -> str:
        return f"{self.repo_id}: {self.scope}"


class TaskDependency(StoreModel):
    """A dependency of one task on another."""

    store = "agentos"

    class Type(models.TextChoices):
        BLOCKS = "blocks", _("blocks")
        REQUIRES = "requires", _("requires")
        SUGGESTS = "suggests", _("suggests")

    dependency_id = models.BigAutoField(_("dependency"), primary_key=True)
    task = StoreForeignKey(Task, verbose_name=_("task"))
    depends_on_task = StoreForeignKey(Task, verbose_name=_("depends on"))
    dependency_type = models.TextField(_("type"), null=True, blank=True, default=Type.BLOCKS, choices=Type)
    reason = models.TextField(_("reason"), null=True, blank=True)
    created_at = RawTimestampField(_("created at"), null=True, blank=True, default=current_timestamp)
    created_by = models.TextField(_("created by"), null=True, blank=True)
    metadata = RawTextField(_("metadata"), null=True, blank=True)

    class Meta:
        managed = False
        db_table = "task_dependency"
        verbose_name = _("task dependency")
        verbose_name_plural = _("task dependencies")
        constraints = [
            models.UniqueConstraint(
                fields=["task", "depends_on_task"], name="task_dependency_task_id_depends_on_task_id_key"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.task_id} → {self.depends_on_task_id}"


class TaskArtifactRef(StoreModel):
    """A result of a task in a repository."""

    store = "agentos"

    class RefType(models.TextChoices):
        COMMIT = "commit", _("commit")
        BRANCH = "branch", _("branch")
        PR = "pr", _("pull request")
        PATCH = "patch", _("patch")
        FILE = "file", _("file")
        TAG = "tag", _("tag")

    artifact_id = models.BigAutoField(_("artifact"), primary_key=True)
    task = StoreForeignKey(Task, verbose_name=_("task"))
    repo_id = models.TextField(_("repository"))
    ref_type = models.TextField(_("type"), choices=RefType)
    ref_value = models.TextField(_("value"))
    summary = models.TextField(_("summary"), null=True, blank=True)
    created_at = RawTimestampField(_("created at"), null=True, blank=True, default=current_timestamp)
    metadata = RawTextField(_("metadata"), null=True, blank=True)

    class Meta:
        managed = False
        db_table = "task_artifact_ref"
        verbose_name = _("task artifact")
        verbose_name_plural = _("task artifacts")

    def __str__(self) -> str:
        return f"{self.ref_type} {self.ref_value}"


class Project(StoreModel):
    """A project. The database accepts only JSON in `tags` and `settings`, and only the documented statuses."""

    store = "agentos"
    added_by = dict.fromkeys(
        (
            *("name", "description", "status", "tags", "default_repo_id", "default_workdir", "settings"),
            *("created_at", "updated_at", "created_by"),
        ),
        25,
    )

    class Status(models.TextChoices):
        ACTIVE = "active", _("active")
        ARCHIVED = "archived", _("archived")
        DELETED = "deleted", _("deleted")

    id = models.TextField(_("project"), primary_key=True)
    path = models.TextField(_("path"))
    added_at = RawTimestampField(_("added at"), null=True, blank=True, default=current_timestamp)
    name = models.TextField(_("name"), default="", blank=True)
    description = models.TextField(_("description"), null=True, blank=True)
    status = models.TextField(_("status"), null=True, blank=True, default=Status.ACTIVE, choices=Status)
    tags = RawTextField(_("tags"), null=True, blank=True)
    default_repo_id = models.TextField(_("default repository"), null=True, blank=True)
    default_workdir = models.TextField(_("default working folder"), null=True, blank=True)
    settings = RawTextField(_("settings"), null=True, blank=True)
    created_at = RawTimestampField(_("created at"), null=True, blank=True, default=current_timestamp)
    updated_at = RawTimestampField(_("updated at"), null=True, blank=True, default=current_timestamp)
    created_by = models.TextField(_("created by"), null=True, blank=True)

    class Meta:
        managed = False
        db_table = "projects"
        verbose_name = _("project")
        verbose_name_plural = _("projects")
        constraints = [
            models.CheckConstraint(
                condition=models.Q(status__in=("active", "archived", "deleted")), name="projects_status_check"
            ),
        ]

    def __str__(self) -> str:
        return str(self.__dict__.get("name") or self.id)  # deferred if the column is missing


class ProjectRepo(StoreModel):
    """A repository of a project."""

    store = "agentos"

    id = models.BigAutoField(_("entry"), primary_key=True)
    project = StoreForeignKey(Project, verbose_name=_("project"))
    repo_id = models.TextField(_("repository"))
    repo_path = models.TextField(_("path"))
    added_at = RawTimestampField(_("added at"), null=True, blank=True, default=current_timestamp)

    class Meta:
        managed = False
        db_table = "project_repos"
        verbose_name = _("project repository")
        verbose_name_plural = _("project repositories")
        constraints = [
            models.UniqueConstraint(fields=["project", "repo_id"], name="project_repos_project_id_repo_id_key"),
        ]

    def __str__(self) -> str:
        return str(self.repo_id)


class WebuiSession(StoreModel):
    """A conversation in the web interface."""

    store = "agentos"

    session_id = models.TextField(_("session"), primary_key=True)
    user_id = models.TextField(_("user"))
    created_at = RawTextField(_("created at"), default=current_timestamp)
    updated_at = RawTextField(_("updated at"), default=current_timestamp)
    metadata = RawTextField(_("metadata"), null=True, blank=True)

    class Meta:
        managed = False
        db_table = "webui_sessions"
        verbose_name = _("session")
        verbose_name_plural = _("sessions")

    def __str__(self) -> str:
        return str(self.session_id)


class WebuiMessage(StoreModel):
    """A message of a session."""

    store = "agentos"

    class Role(models.TextChoices):
        USER = "user", _("user")
        ASSISTANT = "assistant", _("assistant")
        SYSTEM = "system", _("system")

    message_id = models.TextField(_("message"), primary_key=True)
    session = StoreForeignKey(WebuiSession, verbose_name=_("session"))
    role = models.TextField(_("role"), choices=Role)
    content = models.TextField(_("content"))
    created_at = RawTextField(_("created at"), default=current_timestamp)
    metadata = RawTextField(_("metadata"), null=True, blank=True)

    class Meta:
        managed = False
        db_table = "webui_messages"
        verbose_name = _("message")
        verbose_name_plural = _("messages")

    def __str__(self) -> str:
        return str(self.message_id)


class KbSource(StoreModel):
    """A file, folder or address whose text is in the knowledge base."""

    store = "agentos"

    class Type(models.TextChoices):
        FILE = "file", _("file")
        DIRECTORY = "directory", _("folder")
        URL = "url", _("address")

    source_id = models.TextField(_("source"), primary_key=True)
    project = StoreForeignKey(Project, verbose_name=_("project"))
    source_type = models.TextField(_("type"), choices=Type)
    source_path = models.TextField(_("path"))
    indexed_at = RawTextField(_("indexed at"), null=True, blank=True)
    metadata = RawTextField(_("metadata"), null=True, blank=True)

    class Meta:
        managed = False
        db_table = "kb_sources"
        verbose_name = _("knowledge source")
        verbose_name_plural = _("knowledge sources")

    def __str__(self) -> str:
        return str(self.source_path)


class KbChunk(StoreModel):
    """A part of a source's text."""

    store = "agentos"

    chunk_id = models.TextField(_("chunk"), primary_key=True)
    source = StoreForeignKey(KbSource, verbose_name=_("source"))
    content = models.TextField(_("content"))
    chunk_index = models.IntegerField(_("position"))
    metadata = RawTextField(_("metadata"), null=True, blank=True)
    created_at = RawTextField(_("created at"), default=current_timestamp)

    class Meta:
        managed = False
        db_table = "kb_chunks"
        verbose_name = _("knowledge chunk")
        verbose_name_plural = _("knowledge chunks")

    def __str__(self) -> str:
        return str(self.chunk_id)


class KbEmbedding(StoreModel):
    """The vector of a chunk."""

    store = "agentos"

    chunk = models.OneToOneField(
        KbChunk,
        primary_key=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="+",
        verbose_name=_("chunk"),
    )
    embedding = models.BinaryField(_("embedding"))
    model_name = models.TextField(_("model"))
    created_at = RawTextField(_("created at"), default=current_timestamp)

    class Meta:
        managed = False
        db_table = "kb_embeddings"
        verbose_name = _("embedding")
        verbose_name_plural = _("embeddings")

    def __str__(self) -> str:
        return str(self.chunk_id)


class MemoryItem(StoreModel):
    """A decision, convention, constraint or known issue that the agents remember."""

    store = "agentos"
    added_by = dict.fromkeys(("last_used_at", "use_count", "retention_type", "expires_at", "auto_cleanup"), 4)

    class Scope(models.TextChoices):
        GLOBAL = "global", _("global")
        PROJECT = "project", _("project")
        REPO = "repo", _("repository")
        TASK = "task", _("task")
        AGENT = "agent", _("agent")

    class Type(models.TextChoices):
        DECISION = "decision", _("decision")
        CONVENTION = "convention", _("convention")
        CONSTRAINT = "constraint", _("constraint")
        KNOWN_ISSUE = "known_issue", _("known issue")

    id = models.TextField(_("memory"), primary_key=True)
    scope = models.TextField(_("scope"), choices=Scope)
    type = models.TextField(_("type"), choices=Type)
    content = RawTextField(_("content"))
    tags = RawTextField(_("tags"), null=True, blank=True)
    sources = RawTextField(_("sources"), null=True, blank=True)
    created_at = RawTimestampField(_("created at"), null=True, blank=True, default=current_timestamp)
    updated_at = RawTimestampField(_("updated at"), null=True, blank=True, default=current_timestamp)
    confidence = models.FloatField(_("confidence"), null=True, blank=True, default=0.5)
    project = StoreForeignKey(Project, verbose_name=_("project"), null=True, blank=True)
    last_used_at = RawTimestampField(_("last used at"), null=True, blank=True)
    use_count = models.IntegerField(_("times used"), null=True, blank=True, default=0)
    retention_type = models.TextField(_("retention"), null=True, blank=True, default="project")
    expires_at = RawTimestampField(_("expires at"), null=True, blank=True)
    auto_cleanup = models.IntegerField(_("cleaned up automatically"), null=True, blank=True, default=1)

    class Meta:
        managed = False
        db_table = "memory_items"
        verbose_name = _("memory item")
        verbose_name_plural = _("memory")

    def __str__(self) -> str:
        return str(self.id)
