"""AgentOS: tasks with what belongs to them, projects, sessions, knowledge and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.contrib import admin, messages
from django.db.models import Case, QuerySet, When
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import ChoicesRadioFilter

from opsconsole.console.editing import EditableStoreAdmin
from opsconsole.console.run_admin import OperationActionsMixin, WriteByRunMixin
from opsconsole.console.store_admin import (
    CountedChoicesFilter,
    DateRangeFilter,
    ExactTextFilter,
    StoreModelAdmin,
    json_block,
    linked,
    long_text,
    newest_rows,
    row_link,
)
from opsconsole.console.store_import_export import ExchangeStoreMixin, ExportStoreMixin
from opsconsole.formatting import copy_button, format_number, format_time, pretty_json, truncate, vector, vector_words
from opsconsole.stores.store import Store
from tasks.agentos import dependency_graph
from tasks.agentos.models import (
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
from tasks.agentos.search import CANDIDATES, INDEX, search, search_queryset
from tasks.agentos.search_query import json_strings

MESSAGES = 200

to_task, to_project = linked("agentos.task"), linked("agentos.project")
to_session, to_source, to_chunk = linked("agentos.webuisession"), linked("agentos.kbsource"), linked("agentos.kbchunk")


class AgentosAdmin(WriteByRunMixin, ExchangeStoreMixin, EditableStoreAdmin):
    """A table of AgentOS that people may edit, where the store is the console's own."""


# --- tasks ----------------------------------------------------------------------------------------------------


@admin.register(Task)
class TaskAdmin(AgentosAdmin):
    list_display = ("title", "task_id", "status", "session_id", "created_at", "updated_at")
    suggestions = {"status": ("created", "planned", "running", "paused", "completed", "failed", "cancelled")}
    list_filter = (("status", ExactTextFilter), ("session_id", ExactTextFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("task_id", "session_id")
    search_help_text = gettext_lazy("Searches a task's or a session's exact identifier.")
    deferred_fields = ("metadata", "route_plan_json", "requirements_json")
    documents = deferred_fields
    formatters = {
        "title": lambda title: truncate(title, 120) if title else _("(no title)"),
        "task_id": copy_button,
        "session_id": to_session,
        "metadata": json_block,
        "route_plan_json": json_block,
        "requirements_json": json_block,
    }
    fieldsets = (
        (None, {"fields": ("task_id", "title", "status", "session_id", "created_at", "updated_at", "created_by")}),
        (
            gettext_lazy("Documents"),
            {"fields": ("metadata", "route_plan_json", "requirements_json", "selected_instance_id", "router_version")},
        ),
    )
    related_panels = (
        (gettext_lazy("Dependencies"), {"fields": ("dependencies",)}),
        (gettext_lazy("Lineage"), {"fields": ("lineage",)}),
        (gettext_lazy("Repositories"), {"fields": ("repo_scopes", "artifacts")}),
        (gettext_lazy("Governance"), {"fields": ("newest_audits", "verdicts")}),
    )
    required_columns = dict.fromkeys(
        ("dependencies", "lineage", "repo_scopes", "artifacts", "newest_audits", "verdicts"), ()
    )
    required_tables = {
        "dependencies": ("task_dependency",),
        "lineage": ("task_lineage",),
        "repo_scopes": ("task_repo_scope",),
        "artifacts": ("task_artifact_ref",),
        "newest_audits": ("task_audits",),
        "verdicts": ("guardian_verdicts",),
    }

    @admin.display(description=gettext_lazy("dependencies"))
    def dependencies(self, task: Task, store: Store) -> str:
        return dependency_graph.drawing(dependency_graph.neighbourhood(store, task.pk))

    @admin.display(description=gettext_lazy("lineage"))
    def lineage(self, task: Task, store: Store) -> str:
        columns = {
            "lineage_id": linked("agentos.tasklineage"),
            "kind": _choice_of(TaskLineage.Kind),
            "ref_id": copy_button,
            "phase": _text,
            "created_at": format_time,
        }
        return newest_rows(
            _of_task(TaskLineage, task), store, columns, all_link=_all(_("All lineage of this task"), task)
        )

    @admin.display(description=gettext_lazy("scope"))
    def repo_scopes(self, task: Task, store: Store) -> str:
        columns = {
            "scope_id": linked("agentos.taskreposcope"),
            "repo_id": copy_button,
            "scope": _choice_of(TaskRepoScope.Scope),
            "path_filters": _text,
        }
        return newest_rows(
            _of_task(TaskRepoScope, task), store, columns, all_link=_all(_("All scopes of this task"), task)
        )

    @admin.display(description=gettext_lazy("artifacts"))
    def artifacts(self, task: Task, store: Store) -> str:
        columns = {
            "artifact_id": linked("agentos.taskartifactref"),
            "ref_type": _choice_of(TaskArtifactRef.RefType),
            "ref_value": copy_button,
            "repo_id": copy_button,
            "summary": _text,
            "created_at": format_time,
        }
        rows = _of_task(TaskArtifactRef, task)
        return newest_rows(rows, store, columns, all_link=_all(_("All artifacts of this task"), task))

    @admin.display(description=gettext_lazy("newest audits"))
    def newest_audits(self, task: Task, store: Store) -> str:
        audits = apps.get_model("audits", "TaskAudit")
        columns = {
            "audit_id": linked("audits.taskaudit"),
            "event_type": _text,
            "level": _choice_of(audits.Level),
            "created_at": format_time,
        }
        return newest_rows(_of_task(audits, task), store, columns, all_link=_all(_("All audits of this task"), task))

    @admin.display(description=gettext_lazy("verdicts"))
    def verdicts(self, task: Task, store: Store) -> str:
        verdicts = apps.get_model("audits", "GuardianVerdict")
        columns = {
            "id": linked("audits.guardianverdict"),
            "decision": _choice_of(verdicts.Decision),
            "triggered_by": _text,
            "reasons_json": pretty_json,
            "created_at": format_time,
        }
        return newest_rows(
            _of_task(verdicts, task), store, columns, all_link=_all(_("All verdicts of this task"), task)
        )


def _of_task(model: Any, task: Task) -> QuerySet[Any]:
    rows: QuerySet[Any] = model.objects.filter(task_id=task.pk).order_by("-pk")
    return rows


def _all(words: str, task: Task) -> tuple[str, dict[str, str]]:
    return words, {"task_id": task.pk}


def _text(value: Any) -> str:
    return truncate(value, 200)


def _choice_of(choices: Any) -> Callable[[Any], str]:
    words = dict(choices.choices)
    return lambda value: str(words[value]) if isinstance(value, str) and value in words else truncate(value, 60)


@admin.register(TaskLineage)
class TaskLineageAdmin(AgentosAdmin):
    list_display = ("lineage_id", "task_id", "kind", "ref_id", "phase", "created_at")
    list_filter = (("task_id", ExactTextFilter), ("kind", ChoicesRadioFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("lineage_id", "task_id")
    search_help_text = gettext_lazy("Searches the number of an entry and a task's exact identifier.")
    deferred_fields = documents = ("metadata",)
    formatters = {"lineage_id": str, "task_id": to_task, "ref_id": copy_button, "metadata": json_block}
    fieldsets = ((None, {"fields": ("lineage_id", "task_id", "kind", "ref_id", "phase", "created_at", "metadata")}),)


@admin.register(TaskRepoScope)
class TaskRepoScopeAdmin(AgentosAdmin):
    list_display = ("scope_id", "task_id", "repo_id", "scope", "filters", "created_at")
    list_filter = (
        ("task_id", ExactTextFilter),
        ("repo_id", ExactTextFilter),
        ("scope", ChoicesRadioFilter),
        ("created_at", DateRangeFilter),
    )
    exact_search_fields = ("scope_id", "task_id")
    search_help_text = gettext_lazy("Searches the number of an entry and a task's exact identifier.")
    deferred_fields = ("metadata",)
    documents = ("path_filters", "metadata")
    badge_colors = {"scope": {"full": "warning", "paths": "info", "read_only": "success"}}
    formatters = {
        "scope_id": str,
        "task_id": to_task,
        "repo_id": copy_button,
        "path_filters": json_block,
        "metadata": json_block,
    }
    required_columns = {"filters": ("path_filters",)}
    fieldsets = (
        (None, {"fields": ("scope_id", "task_id", "repo_id", "scope", "path_filters", "created_at", "metadata")}),
    )

    @admin.display(description=gettext_lazy("path filters"))
    def filters(self, scope: TaskRepoScope) -> str:
        return pretty_json(scope.path_filters)


@admin.register(TaskDependency)
class TaskDependencyAdmin(AgentosAdmin):
    list_display = ("dependency_id", "task_id", "dependency_type", "depends_on_task_id", "reason", "created_at")
    list_filter = (
        ("task_id", ExactTextFilter),
        ("depends_on_task_id", ExactTextFilter),
        ("dependency_type", ChoicesRadioFilter),
        ("created_at", DateRangeFilter),
    )
    exact_search_fields = ("dependency_id", "task_id")
    search_help_text = gettext_lazy(
        "Searches the number of an entry and the exact identifier of the task that depends."
    )
    deferred_fields = ("metadata",)
    documents = ("reason", "metadata")
    badge_colors = {"dependency_type": {"blocks": "danger", "requires": "warning", "suggests": "info"}}
    formatters = {
        "dependency_id": str,
        "task_id": to_task,
        "depends_on_task_id": to_task,
        "reason": lambda reason: truncate(reason, 120),
        "metadata": json_block,
    }
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "dependency_id",
                    "task_id",
                    "dependency_type",
                    "depends_on_task_id",
                    "reason",
                    "created_at",
                    "created_by",
                    "metadata",
                )
            },
        ),
    )
    related_panels = ((gettext_lazy("Around it"), {"fields": ("around",)}),)
    required_columns = {"around": ()}
    required_tables = {"around": ("tasks",)}

    @admin.display(description=gettext_lazy("dependencies"))
    def around(self, dependency: TaskDependency, store: Store) -> str:
        return dependency_graph.drawing(dependency_graph.neighbourhood(store, dependency.task_id))


@admin.register(TaskArtifactRef)
class TaskArtifactRefAdmin(AgentosAdmin):
    list_display = ("artifact_id", "ref_type", "ref_value", "repo_id", "task_id", "summary", "created_at")
    list_filter = (
        ("task_id", ExactTextFilter),
        ("repo_id", ExactTextFilter),
        ("ref_type", ChoicesRadioFilter),
        ("created_at", DateRangeFilter),
    )
    exact_search_fields = ("artifact_id", "task_id")
    search_help_text = gettext_lazy("Searches the number of an artifact and a task's exact identifier.")
    deferred_fields = ("metadata",)
    documents = ("summary", "metadata")
    formatters = {
        "artifact_id": str,
        "ref_value": copy_button,
        "repo_id": copy_button,
        "task_id": to_task,
        "summary": lambda summary: truncate(summary, 300),
        "metadata": json_block,
    }
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "artifact_id",
                    "task_id",
                    "ref_type",
                    "ref_value",
                    "repo_id",
                    "summary",
                    "created_at",
                    "metadata",
                )
            },
        ),
    )


# --- projects ---------------------------------------------------------------------------------------------------


@admin.register(Project)
class ProjectAdmin(AgentosAdmin):
    list_display = ("id", "name", "status", "path", "labels", "updated_at")
    list_filter = (("status", CountedChoicesFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("id",)
    search_help_text = gettext_lazy("Searches a project's exact identifier.")
    deferred_fields = ("description", "settings")
    documents = ("description", "tags", "settings")
    badge_colors = {"status": {"active": "success", "archived": "info", "deleted": "danger"}}
    formatters = {
        "id": linked("agentos.project"),
        "path": copy_button,
        "default_repo_id": copy_button,
        "default_workdir": copy_button,
        "description": long_text,
        "tags": json_block,
        "settings": json_block,
    }
    required_columns = {"labels": ("tags",), "repos": (), "sources": (), "memory": ()}
    required_tables = {"repos": ("project_repos",), "sources": ("kb_sources",), "memory": ("memory_items",)}
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "id",
                    "name",
                    "status",
                    "path",
                    "description",
                    "default_repo_id",
                    "default_workdir",
                    "added_at",
                    "created_at",
                    "updated_at",
                    "created_by",
                )
            },
        ),
        (gettext_lazy("Documents"), {"fields": ("tags", "settings")}),
    )
    related_panels = (
        (gettext_lazy("Repositories"), {"fields": ("repos",)}),
        (gettext_lazy("Knowledge"), {"fields": ("sources",)}),
        (gettext_lazy("Memory"), {"fields": ("memory",)}),
    )

    @admin.display(description=gettext_lazy("tags"))
    def labels(self, project: Project) -> str:
        return pretty_json(project.tags)

    @admin.display(description=gettext_lazy("repositories"))
    def repos(self, project: Project, store: Store) -> str:
        columns = {
            "id": linked("agentos.projectrepo"),
            "repo_id": copy_button,
            "repo_path": copy_button,
            "added_at": format_time,
        }
        return newest_rows(_of_project(ProjectRepo, project), store, columns, all_link=_everything(project))

    @admin.display(description=gettext_lazy("sources"))
    def sources(self, project: Project, store: Store) -> str:
        columns = {
            "source_id": linked("agentos.kbsource"),
            "source_type": _choice_of(KbSource.Type),
            "source_path": copy_button,
            "indexed_at": format_time,
        }
        return newest_rows(_of_project(KbSource, project), store, columns, all_link=_everything(project))

    @admin.display(description=gettext_lazy("memory"))
    def memory(self, project: Project, store: Store) -> str:
        columns = {
            "id": linked("agentos.memoryitem"),
            "type": _choice_of(MemoryItem.Type),
            "content": pretty_json,
            "use_count": _text,
            "expires_at": format_time,
        }
        return newest_rows(_of_project(MemoryItem, project), store, columns, all_link=_everything(project))


def _of_project(model: Any, project: Project) -> QuerySet[Any]:
    rows: QuerySet[Any] = model.objects.filter(project_id=project.pk).order_by("-pk")
    return rows


def _everything(project: Project) -> tuple[str, dict[str, str]]:
    return _("All of this project"), {"project_id": project.pk}


@admin.register(ProjectRepo)
class ProjectRepoAdmin(AgentosAdmin):
    list_display = ("id", "project_id", "repo_id", "repo_path", "added_at")
    list_filter = (("project_id", ExactTextFilter), ("repo_id", ExactTextFilter), ("added_at", DateRangeFilter))
    exact_search_fields = ("id", "project_id")
    search_help_text = gettext_lazy("Searches the number of an entry and a project's exact identifier.")
    formatters = {"id": str, "project_id": to_project, "repo_id": copy_button, "repo_path": copy_button}
    fieldsets = ((None, {"fields": ("id", "project_id", "repo_id", "repo_path", "added_at")}),)


# --- conversations ----------------------------------------------------------------------------------------------


@admin.register(WebuiSession)
class WebuiSessionAdmin(AgentosAdmin):
    list_display = ("session_id", "user_id", "created_at", "updated_at")
    list_filter = (("user_id", ExactTextFilter), ("updated_at", DateRangeFilter))
    exact_search_fields = ("session_id", "user_id")
    search_help_text = gettext_lazy("Searches the exact identifier of a session or of a user.")
    deferred_fields = documents = ("metadata",)
    formatters = {
        "session_id": linked("agentos.webuisession"),
        "created_at": format_time,
        "updated_at": format_time,
        "metadata": json_block,
    }
    fieldsets = ((None, {"fields": ("session_id", "user_id", "created_at", "updated_at", "metadata")}),)
    related_panels = (
        (gettext_lazy("Conversation"), {"fields": ("conversation",)}),
        (gettext_lazy("Tasks"), {"fields": ("tasks",)}),
    )
    required_columns = {"conversation": (), "tasks": ()}
    required_tables = {"conversation": ("webui_messages",), "tasks": ("tasks",)}

    @admin.display(description=gettext_lazy("messages"))
    def conversation(self, session: WebuiSession, store: Store) -> str:
        """The newest messages, in the order in which they were said."""
        there = store.tables[WebuiMessage._meta.db_table]
        columns = [name for name in ("message_id", "role", "content", "created_at") if name in there]
        rows = WebuiMessage.objects.using(store.alias).filter(session_id=session.pk)
        said = list(rows.order_by("-created_at", "-pk").values(*columns)[: MESSAGES + 1])
        if not said:
            return _("none")
        roles = dict(WebuiMessage.Role.choices)
        earlier: SafeString | str = ""
        if len(said) > MESSAGES:
            url = reverse("admin:agentos_webuimessage_changelist", query={"session_id": session.pk})
            text = _("The newest %(count)s messages; all of this session") % {"count": MESSAGES}
            earlier = format_html('<p><a class="text-link" href="{}">{}</a></p>', url, text)
        return format_html(
            '{}<ol class="conversation">{}</ol>',
            earlier,
            format_html_join(
                "",
                '<li class="said said-{}"><div class="said-by"><strong>{}</strong> {} {}</div>{}</li>',
                (
                    (
                        row.get("role") if row.get("role") in roles else "other",
                        roles.get(row.get("role"), truncate(row.get("role"), 40)),
                        format_time(row.get("created_at")),
                        row_link("agentos.webuimessage", row["message_id"], _("open")),
                        long_text(row.get("content")),
                    )
                    for row in reversed(said[:MESSAGES])
                ),
            ),
        )

    @admin.display(description=gettext_lazy("tasks"))
    def tasks(self, session: WebuiSession, store: Store) -> str:
        columns = {"task_id": to_task, "title": _text, "status": _text, "created_at": format_time}
        rows = Task.objects.filter(session_id=session.pk).order_by("-pk")
        return newest_rows(rows, store, columns, all_link=(_("All tasks of this session"), {"session_id": session.pk}))


@admin.register(WebuiMessage)
class WebuiMessageAdmin(AgentosAdmin):
    list_display = ("message_id", "role", "said", "session_id", "created_at")
    list_filter = (("session_id", ExactTextFilter), ("role", ChoicesRadioFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("message_id", "session_id")
    search_help_text = gettext_lazy("Searches the exact identifier of a message or of a session.")
    deferred_fields = ("metadata",)
    documents = ("content", "metadata")
    badge_colors = {"role": {"user": "info", "assistant": "success", "system": "warning"}}
    formatters = {
        "message_id": linked("agentos.webuimessage"),
        "session_id": to_session,
        "created_at": format_time,
        "content": long_text,
        "metadata": json_block,
    }
    required_columns = {"said": ("content",)}
    fieldsets = ((None, {"fields": ("message_id", "session_id", "role", "created_at", "content", "metadata")}),)

    @admin.display(description=gettext_lazy("content"))
    def said(self, message: WebuiMessage) -> str:
        return truncate(message.content)


# --- search -----------------------------------------------------------------------------------------------------


class FullTextMixin:
    """A search box for words: the best matches first, each with the place where it matches."""

    source: str  # of tasks.agentos.search
    place: str  # the column of the list that shows it

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        exact = queryset.filter(pk=term)
        if exact.exists():
            return exact, False
        found = search(self.store(request), term, sources=(self.source,), limit=CANDIDATES)  # type: ignore[attr-defined]
        request.searched = found.query  # type: ignore[attr-defined]
        method = found.methods[self.source]
        said = [] if method is INDEX else [_("Searched %(method)s.") % {"method": method.label}]
        if len(found.hits) < CANDIDATES:
            keys = [hit.key for hit in found.hits]
            rank = Case(*(When(pk=key, then=place) for place, key in enumerate(keys)), default=len(keys))
            queryset = queryset.filter(pk__in=keys).order_by(rank) if keys else queryset.none()
        else:
            queryset = search_queryset(queryset, term)
            said.append(
                _("More than %(count)s rows match: in the order of their keys.") % {"count": format_number(CANDIDATES)}
            )
        if said:
            messages.info(request, " ".join(said))
        return queryset, False

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        names: list[Any] = super().get_list_display(request)  # type: ignore[misc]
        return [self._matched(name, request) if name == self.place else name for name in names]

    def _matched(self, name: str, request: HttpRequest) -> Callable[[Any], Any]:
        method = getattr(self, name)

        def shown(row: Any) -> Any:
            query = getattr(request, "searched", None)
            if query is None or not isinstance(row.content, str):
                return method(row)
            return query.snippet(json_strings(row.content)).html()

        shown.__name__ = name
        shown.short_description = method.short_description  # type: ignore[attr-defined]
        return shown


# --- knowledge --------------------------------------------------------------------------------------------------


@admin.register(KbSource)
class KbSourceAdmin(AgentosAdmin):
    list_display = ("source_id", "source_type", "source_path", "project_id", "indexed_at")
    list_filter = (
        ("project_id", ExactTextFilter),
        ("source_type", ChoicesRadioFilter),
        ("indexed_at", DateRangeFilter),
    )
    exact_search_fields = ("source_id",)
    search_help_text = gettext_lazy("Searches a source's exact identifier.")
    deferred_fields = documents = ("metadata",)
    formatters = {
        "source_id": linked("agentos.kbsource"),
        "source_path": copy_button,
        "project_id": to_project,
        "indexed_at": format_time,
        "metadata": json_block,
    }
    fieldsets = (
        (None, {"fields": ("source_id", "project_id", "source_type", "source_path", "indexed_at", "metadata")}),
    )
    related_panels = ((gettext_lazy("Chunks"), {"fields": ("chunks",)}),)
    required_columns = {"chunks": ()}
    required_tables = {"chunks": ("kb_chunks",)}

    @admin.display(description=gettext_lazy("chunks"))
    def chunks(self, source: KbSource, store: Store) -> str:
        columns = {"chunk_id": to_chunk, "chunk_index": _text, "content": _text}
        rows = KbChunk.objects.filter(source_id=source.pk).order_by("chunk_index")
        return newest_rows(rows, store, columns, all_link=(_("All chunks of this source"), {"source_id": source.pk}))


@admin.register(KbChunk)
class KbChunkAdmin(FullTextMixin, AgentosAdmin):
    source, place = "knowledge", "text"
    list_display = ("chunk_id", "text", "source_id", "chunk_index", "created_at")
    list_filter = (("source_id", ExactTextFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("chunk_id",)
    search_help_text = gettext_lazy("Searches the words of a chunk, or its exact identifier.")
    deferred_fields = ("metadata",)
    documents = ("content", "metadata")
    formatters = {
        "chunk_id": linked("agentos.kbchunk"),
        "source_id": to_source,
        "created_at": format_time,
        "content": long_text,
        "metadata": json_block,
    }
    required_columns = {"text": ("content",), "vector": ()}
    required_tables = {"vector": ("kb_embeddings",)}
    fieldsets = ((None, {"fields": ("chunk_id", "source_id", "chunk_index", "created_at", "content", "metadata")}),)
    related_panels = ((gettext_lazy("Embedding"), {"fields": ("vector",)}),)

    @admin.display(description=gettext_lazy("content"))
    def text(self, chunk: KbChunk) -> str:
        return truncate(chunk.content)

    @admin.display(description=gettext_lazy("embedding"))
    def vector(self, chunk: KbChunk, store: Store) -> str:
        embedding = KbEmbedding.objects.using(store.alias).filter(pk=chunk.pk).first()
        if embedding is None:
            return _("none")
        words = f"{vector_words(embedding.embedding)} · {truncate(embedding.model_name, 80)}"
        return row_link("agentos.kbembedding", chunk.pk, words)


@admin.register(KbEmbedding)
class KbEmbeddingAdmin(OperationActionsMixin, ExportStoreMixin, StoreModelAdmin):
    """Made by a model from a chunk: nobody types one."""

    list_display = ("chunk_id", "vector", "model_name", "created_at")
    list_filter = (("model_name", ExactTextFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("chunk_id",)
    search_help_text = gettext_lazy("Searches a chunk's exact identifier.")
    formatters = {"chunk_id": linked("agentos.kbembedding"), "created_at": format_time}
    required_columns = {"vector": ("embedding",), "of_chunk": ("chunk_id",), "numbers": ("embedding",)}
    fieldsets = ((None, {"fields": ("of_chunk", "vector", "model_name", "created_at", "numbers")}),)

    @admin.display(description=gettext_lazy("embedding"))
    def vector(self, embedding: KbEmbedding) -> str:
        return vector_words(embedding.embedding)

    @admin.display(description=gettext_lazy("chunk"))
    def of_chunk(self, embedding: KbEmbedding) -> str:
        return to_chunk(embedding.pk)

    @admin.display(description=gettext_lazy("first numbers"))
    def numbers(self, embedding: KbEmbedding) -> str:
        found = vector(embedding.embedding)
        return ", ".join(f"{number:.6g}" for number in found[:16]) + ("…" if len(found) > 16 else "") if found else "–"


# --- memory -----------------------------------------------------------------------------------------------------


@admin.register(MemoryItem)
class MemoryItemAdmin(FullTextMixin, AgentosAdmin):
    source, place = "memory", "what"
    list_display = ("id", "type", "scope", "what", "project_id", "used", "expires_at")
    list_filter = (
        ("type", ChoicesRadioFilter),
        ("scope", ChoicesRadioFilter),
        ("project_id", ExactTextFilter),
        ("expires_at", DateRangeFilter),
        ("created_at", DateRangeFilter),
    )
    exact_search_fields = ("id",)
    search_help_text = gettext_lazy("Searches the words of an item, or its exact identifier.")
    deferred_fields = ("sources",)
    documents = ("content", "tags", "sources")
    badge_colors = {
        "type": {"decision": "info", "convention": "success", "constraint": "warning", "known_issue": "danger"}
    }
    formatters = {
        "id": linked("agentos.memoryitem"),
        "project_id": to_project,
        "content": json_block,
        "tags": json_block,
        "sources": json_block,
    }
    required_columns = {"what": ("content",), "used": ("use_count", "last_used_at")}
    fieldsets = (
        (None, {"fields": ("id", "type", "scope", "project_id", "content", "tags", "sources")}),
        (gettext_lazy("Use"), {"fields": ("confidence", "use_count", "last_used_at", "created_at", "updated_at")}),
        (gettext_lazy("Retention"), {"fields": ("retention_type", "expires_at", "auto_cleanup")}),
    )

    @admin.display(description=gettext_lazy("content"))
    def what(self, item: MemoryItem) -> str:
        interesting = ("summary", "title", "text", "what", "content")
        return pretty_json(item.content, interesting) if isinstance(item.content, str) else truncate(item.content)

    @admin.display(description=gettext_lazy("used"))
    def used(self, item: MemoryItem) -> str:
        if not item.use_count:
            return "–"
        return format_html("{} × {}", truncate(item.use_count, 20), format_time(item.last_used_at))
