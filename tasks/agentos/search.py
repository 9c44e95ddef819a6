"""Full-text search of memory and knowledge (see "Full-text search" in docs/platforms/agentos.md).

A managed store has its own indexes. In an attached store, the search uses the documented FTS5 tables if they are up to
date, otherwise it scans the newest rows. The result names the method.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.db import DatabaseError
from django.db.models import Model, QuerySet
from django.db.models.expressions import RawSQL
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from opsconsole.formatting import format_number
from opsconsole.stores.router import store_of
from opsconsole.stores.store import Store
from tasks.agentos.models import KbChunk, MemoryItem
from tasks.agentos.search_query import HAN, Query, Snippet, Term, is_han, json_strings

LIMIT = 20
MAX_LIMIT = 500
CANDIDATES = 500  # matches that are ranked
SCANNED = 20_000  # rows that are read without an index
CHARACTERS = 64_000  # of a text that are searched


@dataclass(frozen=True)
class Source:
    """A searchable table and its indexes."""

    name: str
    title: Any
    model: type[Model]
    columns: tuple[str, ...]  # searched; every store has the last one
    is_json: bool
    shown: tuple[str, ...]
    documented: str
    grams: str
    index: str
    text: str  # the indexed expression on PostgreSQL

    @property
    def table(self) -> str:
        return self.model._meta.db_table

    @property
    def key(self) -> str:
        return str(self.model._meta.pk.column)


SOURCES = {
    "memory": Source(
        name="memory",
        title=gettext_lazy("Memory"),
        model=MemoryItem,
        columns=("tags", "content"),
        is_json=True,
        shown=("type", "scope", "project_id"),
        documented="memory_fts",
        grams="memory_grams",
        index="memory_items_search",
        text="coalesce(json_strings(tags) || chr(10), '') || json_strings(content)",
    ),
    "knowledge": Source(
        name="knowledge",
        title=gettext_lazy("Knowledge"),
        model=KbChunk,
        columns=("content",),
        is_json=False,
        shown=("source_id", "chunk_index"),
        documented="kb_chunks_fts",
        grams="kb_chunks_grams",
        index="kb_chunks_search",
        text="content",
    ),
}


@dataclass(frozen=True)
class Method:
    """The way a source was searched: "index", "documented index" or "scan of 300 rows"."""

    name: str
    rows: int = 0
    capped: bool = False

    def __str__(self) -> str:
        return f"scan of {self.rows} rows" if self.name == "scan" else self.name

    @property
    def label(self) -> str:
        """Return the method in the reader's language."""
        if self.name == "index":
            return _("by the index")
        if self.name == "documented index":
            return _("by AgentOS's index, whole words only")
        if self.capped:
            return _("by a scan of the newest %(count)s rows; older rows were not searched") % {
                "count": format_number(self.rows)
            }
        return _("by a scan of all %(count)s rows") % {"count": format_number(self.rows)}


INDEX = Method("index")
DOCUMENTED_INDEX = Method("documented index")


@dataclass
class Hit:
    """A matching row. A higher `score` is better."""

    source: Source
    query: Query
    key: str
    text: str
    score: float
    values: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def snippet(self) -> Snippet:
        return self.query.snippet(self.text)

    @property
    def link(self) -> str:
        """Return the address of the row's page, if the model has one."""
        meta = self.source.model._meta
        if not admin.site.is_registered(self.source.model):
            return ""
        return reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[quote(self.key)])


@dataclass
class SearchResult:
    """The matches, best first, and the method of each source."""

    query: Query
    hits: list[Hit] = field(default_factory=list)
    methods: dict[str, Method] = field(default_factory=dict)
    more: bool = False  # there are more matches than `hits`

    @property
    def method(self) -> str:
        """Return the methods for scripts: a common one, or one for each source."""
        distinct = dict.fromkeys(map(str, self.methods.values()))
        if len(distinct) <= 1:
            return next(iter(distinct), "")
        return "; ".join(f"{name}: {method}" for name, method in self.methods.items())

    @property
    def method_labels(self) -> list[tuple[str, str]]:
        return [(str(SOURCES[name].title), method.label) for name, method in self.methods.items()]


def search(store: Store, text: str, *, sources: tuple[str, ...] = tuple(SOURCES), limit: int = LIMIT) -> SearchResult:
    """Return the best matches of `text` in `store`. Raise StoreUnavailable.

    Sources whose table is missing are skipped, unless all are.
    """
    found = SearchResult(Query(text))
    existing = [name for name in sources if SOURCES[name].table in store.tables] or list(sources[:1])
    for name in existing:
        source = SOURCES[name]
        store.require({source.model: (source.key, source.columns[-1])})
        try:
            hits, method = _matches(store, source, found.query)
        except DatabaseError as error:
            raise store.unusable(error) from error
        found.methods[name] = method
        found.hits += hits
    found.hits.sort(key=lambda hit: (-hit.score, hit.key))
    found.more = len(found.hits) > limit
    del found.hits[limit:]
    _fill(store, found.hits)
    return found


def search_queryset(queryset: QuerySet[Any], text: str) -> QuerySet[Any]:
    """Return the rows of `queryset` that match `text`, for a changelist of MemoryItem or KbChunk.

    With an index these are all matches, without one the first `CANDIDATES` of the newest `SCANNED` rows.
    """
    source = next(source for source in SOURCES.values() if source.model is queryset.model)
    store, query = Store(queryset.db, store_of(queryset.model)), Query(text)
    if not query:
        return queryset.none()
    engine = _engine(store, source, query)
    if isinstance(engine, Index):
        return queryset.filter(pk__in=RawSQL(*engine.keys(query)))  # noqa: S611  # constant names, bound values
    return queryset.filter(pk__in=[hit.key for hit in _matches(store, source, query)[0]])


def _matches(store: Store, source: Source, query: Query) -> tuple[list[Hit], Method]:
    """Return up to `CANDIDATES` matches, each verified against the row's current text."""
    engine = _engine(store, source, query)
    if not query:
        return [], engine.method
    if isinstance(engine, FullTextTable):
        try:
            hits, mismatches = _verified(engine, query)
            if mismatches <= len(hits):
                return hits, engine.method
        except DatabaseError:
            pass
        engine = Scan(store, source)  # the index is damaged, or a VACUUM has renumbered the rows
    return _verified(engine, query)[0], engine.method


def _verified(engine: Engine, query: Query) -> tuple[list[Hit], int]:
    """Return the candidates that match, and the number of those that do not."""
    hits: list[Hit] = []
    mismatches = 0
    for key, text in engine.candidates(query):
        score = query.score(text)
        if score:
            hits.append(Hit(engine.source, query, key, text, score))
        else:
            mismatches += 1
        if len(hits) == CANDIDATES:
            break
    return hits, mismatches


def _fill(store: Store, hits: list[Hit]) -> None:
    """Read the other columns of the matches, with one query per source."""
    for source in SOURCES.values():
        wanted = {hit.key: hit for hit in hits if hit.source is source}
        columns = [name for name in source.shown if name in store.tables.get(source.table, {})]
        if wanted and columns:
            rows = source.model._base_manager.using(store.alias).filter(pk__in=list(wanted))
            for key, *values in rows.values_list("pk", *columns):
                wanted[key].values.update(zip(columns, values, strict=True))


# --- engines ------------------------------------------------------------------------------------------------


class Engine:
    """A way to find candidates: all matches, and possibly other rows."""

    method: Method = INDEX

    def __init__(self, store: Store, source: Source) -> None:
        self.store, self.source = store, source

    def candidates(self, query: Query) -> Iterator[tuple[str, str]]:
        """Yield keys with their texts."""
        raise NotImplementedError

    @cached_property
    def columns(self) -> list[str]:
        """Return the searched columns that the store has, as text."""
        existing = self.store.tables[self.source.table]
        return [f"CAST({name} AS TEXT)" for name in self.source.columns if name in existing]

    def _read(self, sql: str, values: list[Any]) -> Iterator[tuple[str, str]]:
        """Yield each row's key and searched text."""
        plain = json_strings if self.source.is_json else str
        with self.store.connection.cursor() as cursor:
            cursor.execute(sql, values)
            for key, *columns in cursor:
                text = "\n".join(plain(column) for column in columns if column is not None)
                yield key or "", text[:CHARACTERS]


class Index(Engine):
    """A full-text index that can be part of a larger query."""

    def keys(self, query: Query) -> tuple[str, list[Any]]:
        """Return the SQL that selects the keys of all matches, and its values."""
        raise NotImplementedError


class FullTextTable(Engine):
    """An FTS5 table. The best candidates come first."""

    fts: str

    def candidates(self, query: Query) -> Iterator[tuple[str, str]]:
        source = self.source
        best = f"SELECT rowid AS place FROM {self.fts} WHERE {self.fts} MATCH %s ORDER BY rank LIMIT {CANDIDATES}"
        return self._read(
            f"SELECT {source.key}, {', '.join(self.columns)}"
            f" FROM ({best}) AS best LEFT JOIN {source.table} AS t ON t.rowid = best.place",
            [self.match(query)],
        )

    def match(self, query: Query) -> str:
        """Return the query in the syntax of FTS5."""
        wanted = " AND ".join(map(_fts5, query.terms))
        return f"({wanted}) NOT ({' OR '.join(map(_fts5, query.excluded))})" if query.excluded else wanted


class GramsTable(FullTextTable, Index):
    """The console's FTS5 table, which exists in addition to the documented one."""

    @property
    def fts(self) -> str:  # type: ignore[override]
        return self.source.grams

    def keys(self, query: Query) -> tuple[str, list[Any]]:
        source = self.source
        return (
            f"SELECT {source.key} FROM {source.table} WHERE rowid IN"
            f" (SELECT rowid FROM {self.fts} WHERE {self.fts} MATCH %s)",
            [self.match(query)],
        )


class DocumentedTable(FullTextTable):
    """The documented FTS5 table.

    It serves ASCII queries only: a run of Chinese is one word there, and JSON keeps its escapes.
    """

    method = DOCUMENTED_INDEX

    @property
    def fts(self) -> str:  # type: ignore[override]
        return self.source.documented


def _fts5(term: Term) -> str:
    words, prefix = term.words()
    return f'"{" ".join(words)}"{" *" if prefix else ""}'


class Tsvector(Index):
    """The console's GIN index. Its positions are limited, so phrases are matched in the text."""

    def keys(self, query: Query) -> tuple[str, list[Any]]:
        condition, values = self._condition(query)
        return f"SELECT {self.source.key} FROM {self.source.table} WHERE {condition}", values

    def candidates(self, query: Query) -> Iterator[tuple[str, str]]:
        condition, values = self._condition(query)
        return self._read(
            f"SELECT {self.source.key}, {', '.join(self.columns)} FROM {self.source.table}"
            f" WHERE {condition} LIMIT {CANDIDATES}",
            values,
        )

    def _condition(self, query: Query) -> tuple[str, list[Any]]:
        words = " & ".join(map(_tsquery, query.terms))
        conditions = [f"search_words({self.source.text}) @@ to_tsquery('pg_catalog.simple', %s)"]
        values = [words]
        text = f"left({self.source.text}, {CHARACTERS})"
        for term in (*query.terms, *query.excluded):
            if term.excluded or len(term.words()[0]) > 1:
                if len(term.pieces) == 1 and is_han(term.pieces[0]):
                    conditions.append(f"strpos({text}, %s) {'=' if term.excluded else '>'} 0")
                    values.append(term.pieces[0])
                else:
                    conditions.append(f"{text} {'!~*' if term.excluded else '~*'} %s")
                    values.append(_posix(term))
        return " AND ".join(conditions), values


def _tsquery(term: Term) -> str:
    words, prefix = term.words()
    return " & ".join(f"'{word}'" for word in words) + (":*" if prefix else "")


def _posix(term: Term) -> str:
    """Return the term as a regular expression of PostgreSQL."""
    edge = f"(?:^|$|[^[:alnum:]]|[{HAN}])"
    pattern = "" if is_han(term.pieces[0]) else edge
    for before, piece in zip((None, *term.pieces), term.pieces, strict=False):
        if before is not None:
            pattern += "[^[:alnum:]]+" if is_han(before) == is_han(piece) else "[^[:alnum:]]*"
        pattern += piece
    return pattern if is_han(term.pieces[-1]) or term.prefix else pattern + edge


class Scan(Engine):
    """A scan of the newest rows in one pass, filtered by the longest piece of each term."""

    @cached_property
    def method(self) -> Method:  # type: ignore[override]
        with self.store.connection.cursor() as cursor:
            cursor.execute(f"SELECT COUNT(*) FROM (SELECT 1 FROM {self.source.table} LIMIT {SCANNED + 1}) AS counted")
            count = int(cursor.fetchone()[0])
        return Method("scan", min(count, SCANNED), capped=count > SCANNED)

    def candidates(self, query: Query) -> Iterator[tuple[str, str]]:
        source, condition = self.source, "TRUE"
        # PostgreSQL does not record the order of insertion, but the keys begin with a time.
        newest, like = ("rowid", "LIKE") if self.store.vendor == "sqlite" else (source.key, 'COLLATE "C" ILIKE')
        names = [f"column_{number}" for number in range(len(self.columns))]
        columns = ", ".join(f"{column} AS {name}" for column, name in zip(self.columns, names, strict=True))
        values: list[str] = []
        for term in query.terms:
            piece = max(term.pieces, key=len)
            if piece.isascii() or is_han(piece):  # LIKE folds the case of ASCII only
                forms = dict.fromkeys((piece, json.dumps(piece)[1:-1]))  # JSON may be in ASCII
                either = [f"{name} {like} %s ESCAPE '!'" for name in names for _ in forms]
                condition += f" AND ({' OR '.join(either)})"
                values += [f"%{form}%" for form in forms] * len(names)
        return self._read(
            f"SELECT place, {', '.join(names)} FROM (SELECT {source.key} AS place, {columns} FROM {source.table}"
            f" ORDER BY {newest} DESC LIMIT {SCANNED}) AS newest WHERE {condition}",
            values,
        )


def _engine(store: Store, source: Source, query: Query) -> Engine:
    """Return the best engine for the store."""
    if store.vendor == "postgresql":
        return (Tsvector if has_tsvector(store, source) else Scan)(store, source)
    virtual = store.virtual_tables()
    if source.grams in virtual:
        return GramsTable(store, source)
    if source.documented in virtual and query.text.isascii() and _counts_agree(store, source):
        return DocumentedTable(store, source)
    return Scan(store, source)


def has_tsvector(store: Store, source: Source) -> bool:
    with store.connection.cursor() as cursor:
        cursor.execute(
            "SELECT i.indisvalid FROM pg_index AS i"
            " WHERE i.indexrelid = to_regclass(%s) AND to_regprocedure('search_words(text)') IS NOT NULL",
            [source.index],
        )
        row = cursor.fetchone()
    return bool(row and row[0])


def _counts_agree(store: Store, source: Source) -> bool:
    """Return whether the documented index has as many rows as its table. Otherwise it is not maintained."""
    try:
        with store.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT (SELECT COUNT(*) FROM {source.documented}_docsize) = (SELECT COUNT(*) FROM {source.table})"
            )
            return bool(cursor.fetchone()[0])
    except DatabaseError:
        return False
