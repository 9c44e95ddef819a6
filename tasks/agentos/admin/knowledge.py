"""Pages of knowledge: sources, chunks and embeddings."""

from __future__ import annotations

from django.contrib import admin
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import ChoicesRadioFilter

from opsconsole.console.run_admin import OperationActionsMixin
from opsconsole.console.store_admin import (
    DateRangeFilter,
    ExactTextFilter,
    StoreModelAdmin,
    long_text,
    related_rows,
    row_link,
)
from opsconsole.console.store_import_export import ExportStoreMixin
from opsconsole.formatting import copy_button, format_time, truncate, vector, vector_words
from opsconsole.stores.store import Store
from tasks.agentos.admin.base import AgentosAdmin
from tasks.agentos.admin.full_text import FullTextMixin
from tasks.agentos.models import KbChunk, KbEmbedding, KbSource

SHOWN_NUMBERS = 16


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
    documents = ("metadata",)
    formatters = {"source_path": copy_button, "indexed_at": format_time}
    fieldsets = ((None, {"fields": (*list_display, "metadata")}),)
    related_panels = ((gettext_lazy("Chunks"), {"fields": ("chunks",)}),)

    chunks = related_rows(
        "agentos.KbChunk",
        "source_id",
        ("chunk_id", "chunk_index", "content"),
        title=gettext_lazy("chunks"),
        link_to_all=gettext_lazy("All chunks of this source"),
        order="chunk_index",
    )


@admin.register(KbChunk)
class KbChunkAdmin(FullTextMixin, AgentosAdmin):
    source, snippet_column = "knowledge", "excerpt"
    list_display = ("chunk_id", "excerpt", "source_id", "chunk_index", "created_at")
    list_filter = (("source_id", ExactTextFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("chunk_id",)
    search_help_text = gettext_lazy("Searches the words of a chunk, or its exact identifier.")
    documents = ("content", "metadata")
    formatters = {"created_at": format_time, "content": long_text}
    required_columns = {"excerpt": ("content",)}
    required_tables = {"vector": ("kb_embeddings",)}
    fieldsets = ((None, {"fields": ("chunk_id", "source_id", "chunk_index", "created_at", "content", "metadata")}),)
    related_panels = ((gettext_lazy("Embedding"), {"fields": ("vector",)}),)

    @admin.display(description=gettext_lazy("content"))
    def excerpt(self, chunk: KbChunk) -> str:
        return truncate(chunk.content)

    @admin.display(description=gettext_lazy("embedding"))
    def vector(self, chunk: KbChunk, store: Store) -> str:
        embedding = KbEmbedding.objects.using(store.alias).filter(pk=chunk.pk).first()
        if embedding is None:
            return _("none")
        summary = f"{vector_words(embedding.embedding)} · {truncate(embedding.model_name, 80)}"
        return row_link("agentos.kbembedding", chunk.pk, summary)


@admin.register(KbEmbedding)
class KbEmbeddingAdmin(OperationActionsMixin, ExportStoreMixin, StoreModelAdmin):
    """Embeddings. They are read-only, because a model computes them."""

    list_display = ("chunk_id", "vector", "model_name", "created_at")
    list_filter = (("model_name", ExactTextFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("chunk_id",)
    search_help_text = gettext_lazy("Searches a chunk's exact identifier.")
    formatters = {"created_at": format_time}
    required_columns = {"vector": ("embedding",), "chunk_link": ("chunk_id",), "numbers": ("embedding",)}
    fieldsets = ((None, {"fields": ("chunk_link", "vector", "model_name", "created_at", "numbers")}),)

    @admin.display(description=gettext_lazy("embedding"))
    def vector(self, embedding: KbEmbedding) -> str:
        return vector_words(embedding.embedding)

    @admin.display(description=gettext_lazy("chunk"))
    def chunk_link(self, embedding: KbEmbedding) -> str:
        return row_link("agentos.kbchunk", embedding.pk)

    @admin.display(description=gettext_lazy("first numbers"))
    def numbers(self, embedding: KbEmbedding) -> str:
        found = vector(embedding.embedding)
        if not found:
            return "–"
        return ", ".join(f"{number:.6g}" for number in found[:SHOWN_NUMBERS]) + "…" * (len(found) > SHOWN_NUMBERS)
