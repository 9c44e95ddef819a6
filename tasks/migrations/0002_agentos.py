"""AgentOS: all other tables of document 001, its checks of JSON, and the full-text search of memory and knowledge."""

from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models

import opsconsole.stores.models
import tasks.models.agentos
from opsconsole.stores.ddl import StoreSQL

SQLITE = """
CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    path TEXT NOT NULL,
    added_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    name TEXT NOT NULL DEFAULT '',
    description TEXT,
    status TEXT DEFAULT 'active' CHECK (status IN ('active', 'archived', 'deleted')),
    tags TEXT,
    default_repo_id TEXT,
    default_workdir TEXT,
    settings TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    created_by TEXT
);
CREATE INDEX idx_projects_status ON projects (status);
CREATE INDEX idx_projects_status_created ON projects (status, created_at DESC);
CREATE TABLE project_repos (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project_id TEXT NOT NULL,
    repo_id TEXT NOT NULL,
    repo_path TEXT NOT NULL,
    added_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (project_id, repo_id),
    FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE CASCADE
);
CREATE TABLE task_lineage (
    lineage_id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    ref_id TEXT NOT NULL,
    phase TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    metadata TEXT,
    FOREIGN KEY (task_id) REFERENCES tasks (task_id) ON DELETE CASCADE
);
CREATE TABLE task_repo_scope (
    scope_id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL,
    repo_id TEXT NOT NULL,
    scope TEXT DEFAULT 'full',
    path_filters TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    metadata TEXT,
    FOREIGN KEY (task_id) REFERENCES tasks (task_id) ON DELETE CASCADE
);
CREATE TABLE task_dependency (
    dependency_id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL,
    depends_on_task_id TEXT NOT NULL,
    dependency_type TEXT DEFAULT 'blocks',
    reason TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    created_by TEXT,
    metadata TEXT,
    UNIQUE (task_id, depends_on_task_id)
);
CREATE TABLE task_artifact_ref (
    artifact_id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL,
    repo_id TEXT NOT NULL,
    ref_type TEXT NOT NULL,
    ref_value TEXT NOT NULL,
    summary TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    metadata TEXT
);
CREATE TABLE webui_sessions (
    session_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    metadata TEXT
);
CREATE INDEX idx_sessions_user_updated ON webui_sessions (user_id, updated_at DESC);
CREATE TABLE webui_messages (
    message_id TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    created_at TEXT NOT NULL,
    metadata TEXT,
    FOREIGN KEY (session_id) REFERENCES webui_sessions (session_id) ON DELETE CASCADE
);
CREATE INDEX idx_messages_session_created ON webui_messages (session_id, created_at ASC);
CREATE TABLE kb_sources (
    source_id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    source_type TEXT NOT NULL,
    source_path TEXT NOT NULL,
    indexed_at TEXT,
    metadata TEXT,
    FOREIGN KEY (project_id) REFERENCES projects (id)
);
CREATE TABLE kb_chunks (
    chunk_id TEXT PRIMARY KEY,
    source_id TEXT NOT NULL,
    content TEXT NOT NULL,
    chunk_index INTEGER NOT NULL,
    metadata TEXT,
    created_at TEXT NOT NULL,
    FOREIGN KEY (source_id) REFERENCES kb_sources (source_id) ON DELETE CASCADE
);
CREATE TABLE kb_embeddings (
    chunk_id TEXT PRIMARY KEY,
    embedding BLOB NOT NULL,
    model_name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    FOREIGN KEY (chunk_id) REFERENCES kb_chunks (chunk_id) ON DELETE CASCADE
);
CREATE TABLE memory_items (
    id TEXT PRIMARY KEY,
    scope TEXT NOT NULL,
    type TEXT NOT NULL,
    content TEXT NOT NULL,
    tags TEXT,
    sources TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    confidence REAL DEFAULT 0.5,
    project_id TEXT,
    last_used_at TIMESTAMP,
    use_count INTEGER DEFAULT 0,
    retention_type TEXT DEFAULT 'project',
    expires_at TIMESTAMP,
    auto_cleanup INTEGER DEFAULT 1,
    FOREIGN KEY (project_id) REFERENCES projects (id)
);
CREATE TABLE schema_version (
    version TEXT PRIMARY KEY,
    applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
INSERT INTO schema_version (version) VALUES ('0.25.0');
CREATE TRIGGER check_projects_tags_json_insert
BEFORE INSERT ON projects
FOR EACH ROW
WHEN NEW.tags IS NOT NULL
BEGIN
    SELECT CASE
        WHEN json_valid(NEW.tags) = 0
        THEN RAISE(ABORT, 'Invalid tags: must be valid JSON')
    END;
END;
CREATE TRIGGER check_projects_tags_json_update
BEFORE UPDATE OF tags ON projects
FOR EACH ROW
WHEN NEW.tags IS NOT NULL
BEGIN
    SELECT CASE
        WHEN json_valid(NEW.tags) = 0
        THEN RAISE(ABORT, 'Invalid tags: must be valid JSON')
    END;
END;
CREATE TRIGGER check_projects_settings_json_insert
BEFORE INSERT ON projects
FOR EACH ROW
WHEN NEW.settings IS NOT NULL
BEGIN
    SELECT CASE
        WHEN json_valid(NEW.settings) = 0
        THEN RAISE(ABORT, 'Invalid settings: must be valid JSON')
    END;
END;
CREATE TRIGGER check_projects_settings_json_update
BEFORE UPDATE OF settings ON projects
FOR EACH ROW
WHEN NEW.settings IS NOT NULL
BEGIN
    SELECT CASE
        WHEN json_valid(NEW.settings) = 0
        THEN RAISE(ABORT, 'Invalid settings: must be valid JSON')
    END;
END;
"""

POSTGRESQL = """
CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    path TEXT NOT NULL,
    added_at TIMESTAMP DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    name TEXT NOT NULL DEFAULT '',
    description TEXT,
    status TEXT DEFAULT 'active' CHECK (status IN ('active', 'archived', 'deleted')),
    tags TEXT,
    default_repo_id TEXT,
    default_workdir TEXT,
    settings TEXT,
    created_at TIMESTAMP DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    updated_at TIMESTAMP DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    created_by TEXT
);
CREATE INDEX idx_projects_status ON projects (status);
CREATE INDEX idx_projects_status_created ON projects (status, created_at DESC);
CREATE TABLE project_repos (
    id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    project_id TEXT NOT NULL,
    repo_id TEXT NOT NULL,
    repo_path TEXT NOT NULL,
    added_at TIMESTAMP DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    UNIQUE (project_id, repo_id),
    FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE CASCADE
);
CREATE TABLE task_lineage (
    lineage_id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    task_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    ref_id TEXT NOT NULL,
    phase TEXT,
    created_at TIMESTAMP DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    metadata TEXT,
    FOREIGN KEY (task_id) REFERENCES tasks (task_id) ON DELETE CASCADE
);
CREATE TABLE task_repo_scope (
    scope_id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    task_id TEXT NOT NULL,
    repo_id TEXT NOT NULL,
    scope TEXT DEFAULT 'full',
    path_filters TEXT,
    created_at TIMESTAMP DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    metadata TEXT,
    FOREIGN KEY (task_id) REFERENCES tasks (task_id) ON DELETE CASCADE
);
CREATE TABLE task_dependency (
    dependency_id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    task_id TEXT NOT NULL,
    depends_on_task_id TEXT NOT NULL,
    dependency_type TEXT DEFAULT 'blocks',
    reason TEXT,
    created_at TIMESTAMP DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    created_by TEXT,
    metadata TEXT,
    UNIQUE (task_id, depends_on_task_id)
);
CREATE TABLE task_artifact_ref (
    artifact_id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    task_id TEXT NOT NULL,
    repo_id TEXT NOT NULL,
    ref_type TEXT NOT NULL,
    ref_value TEXT NOT NULL,
    summary TEXT,
    created_at TIMESTAMP DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    metadata TEXT
);
CREATE TABLE webui_sessions (
    session_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    metadata TEXT
);
CREATE INDEX idx_sessions_user_updated ON webui_sessions (user_id, updated_at DESC);
CREATE TABLE webui_messages (
    message_id TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    created_at TEXT NOT NULL,
    metadata TEXT,
    FOREIGN KEY (session_id) REFERENCES webui_sessions (session_id) ON DELETE CASCADE
);
CREATE INDEX idx_messages_session_created ON webui_messages (session_id, created_at ASC);
CREATE TABLE kb_sources (
    source_id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    source_type TEXT NOT NULL,
    source_path TEXT NOT NULL,
    indexed_at TEXT,
    metadata TEXT,
    FOREIGN KEY (project_id) REFERENCES projects (id)
);
CREATE TABLE kb_chunks (
    chunk_id TEXT PRIMARY KEY,
    source_id TEXT NOT NULL,
    content TEXT NOT NULL,
    chunk_index INTEGER NOT NULL,
    metadata TEXT,
    created_at TEXT NOT NULL,
    FOREIGN KEY (source_id) REFERENCES kb_sources (source_id) ON DELETE CASCADE
);
CREATE TABLE kb_embeddings (
    chunk_id TEXT PRIMARY KEY,
    embedding BYTEA NOT NULL,
    model_name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    FOREIGN KEY (chunk_id) REFERENCES kb_chunks (chunk_id) ON DELETE CASCADE
);
CREATE TABLE memory_items (
    id TEXT PRIMARY KEY,
    scope TEXT NOT NULL,
    type TEXT NOT NULL,
    content TEXT NOT NULL,
    tags TEXT,
    sources TEXT,
    created_at TIMESTAMP DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    updated_at TIMESTAMP DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    confidence REAL DEFAULT 0.5,
    project_id TEXT,
    last_used_at TIMESTAMP,
    use_count INTEGER DEFAULT 0,
    retention_type TEXT DEFAULT 'project',
    expires_at TIMESTAMP,
    auto_cleanup INTEGER DEFAULT 1,
    FOREIGN KEY (project_id) REFERENCES projects (id)
);
CREATE TABLE schema_version (
    version TEXT PRIMARY KEY,
    applied_at TIMESTAMP DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC')
);
INSERT INTO schema_version (version) VALUES ('0.25.0');
CREATE FUNCTION check_json() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM (to_jsonb(NEW) ->> TG_ARGV[0])::json;
    RETURN NEW;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RAISE EXCEPTION 'Invalid %: must be valid JSON', TG_ARGV[0] USING ERRCODE = 'check_violation';
END;
$$;
CREATE TRIGGER check_projects_tags_json_insert BEFORE INSERT ON projects
    FOR EACH ROW WHEN (NEW.tags IS NOT NULL) EXECUTE FUNCTION check_json('tags');
CREATE TRIGGER check_projects_tags_json_update BEFORE UPDATE OF tags ON projects
    FOR EACH ROW WHEN (NEW.tags IS NOT NULL) EXECUTE FUNCTION check_json('tags');
CREATE TRIGGER check_projects_settings_json_insert BEFORE INSERT ON projects
    FOR EACH ROW WHEN (NEW.settings IS NOT NULL) EXECUTE FUNCTION check_json('settings');
CREATE TRIGGER check_projects_settings_json_update BEFORE UPDATE OF settings ON projects
    FOR EACH ROW WHEN (NEW.settings IS NOT NULL) EXECUTE FUNCTION check_json('settings');
"""

# --- full-text search ------------------------------------------------------------------------------------
#
# The documented FTS5 tables hold a run of Chinese as one word. So beside each stands a table of grams: there,
# every Chinese, Japanese or Korean character begins a word with the character after it, and each other word
# stands as it is. Of memory, which is JSON, what it says is indexed. Both engines do so, for the first 64,000 characters: longer ones would cost quadratic time
# on SQLite and exceed what a tsvector may hold on PostgreSQL. `tasks/search.py` asks in the same words.

HAN = "々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽"
CHARACTERS = 64_000


def _sqlite_strings(text: str) -> str:
    """What a JSON document says, without its escapes and punctuation; any other text as it stands."""
    return f"""CASE WHEN json_valid(CAST({text} AS TEXT)) THEN (
            SELECT coalesce(group_concat(atom, ' '), '') FROM json_tree({text}) WHERE type IN ('text', 'integer', 'real')
        ) ELSE {text} END"""


def _sqlite_grams(text: str) -> str:
    """The words of `text`, letter by letter, each with the next one.

    In pieces of 128: `substr` counts from the beginning each time.
    """
    return f"""(
        WITH RECURSIVE source(text) AS (SELECT substr({text}, 1, {CHARACTERS})),
        step(at, i, piece, pair) AS (
            SELECT 1, 1, substr(text, 1, 129), substr(text, 1, 2) FROM source WHERE text GLOB '*[{HAN}]*'
            UNION ALL
            SELECT
                CASE WHEN i < 128 THEN at ELSE at + 128 END,
                CASE WHEN i < 128 THEN i + 1 ELSE 1 END,
                CASE WHEN i < 128 THEN piece ELSE substr(text, at + 128, 129) END,
                CASE WHEN i < 128 THEN substr(piece, i + 1, 2) ELSE substr(text, at + 128, 2) END
            FROM step, source WHERE length(pair) = 2
        )
        SELECT coalesce(group_concat(
            CASE
                WHEN pair GLOB '[{HAN}][{HAN}]' THEN ' ' || pair
                WHEN pair GLOB '[{HAN}]*' THEN ' ' || substr(pair, 1, 1) || ' '
                ELSE substr(pair, 1, 1)
            END, ''), (SELECT text FROM source)) FROM step
    )"""


def _sqlite_search(table: str, columns: tuple[str, ...], fts: str, grams: str, text: str) -> str:
    """The two indexes of `table` and what keeps them in step, whoever writes: `{}` in `text` is OLD or NEW.

    INSERT OR REPLACE fires no trigger of the row that it removes. So what might be replaced is noted before,
    and unindexed when the row has indeed been written; OR IGNORE and ON CONFLICT never come there.
    """
    key, names = columns[0], ", ".join(columns)
    old, new = (", ".join(f"{row}.{name}" for name in columns) for row in ("OLD", "NEW"))

    def unindex(values: str, rowid: str, words: str, source: str = "") -> str:
        return f"""
    INSERT INTO {fts} ({fts}, rowid, {names}) SELECT 'delete', {rowid}, {values} {source};
    INSERT INTO {grams} ({grams}, rowid, words) SELECT 'delete', {rowid}, {words} {source};"""

    def index() -> str:
        return f"""
    INSERT INTO {fts} (rowid, {names}) VALUES (NEW.rowid, {new});
    INSERT INTO {grams} (rowid, words) VALUES (NEW.rowid, {_sqlite_grams(text.format("NEW"))});"""

    def unindex_replaced(condition: str = "") -> str:
        noted = f"FROM {fts}_replaced AS replaced {condition}"
        return unindex(names, "replaced.place", _sqlite_grams(text.format("replaced")), noted)

    changed = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in ("rowid", *columns))
    return f"""
CREATE VIRTUAL TABLE {fts} USING fts5(
    {key} UNINDEXED,
    {", ".join(columns[1:])},
    content='{table}',
    content_rowid='rowid'
);
CREATE VIEW {grams}_text (rowid, words) AS
    SELECT entry.rowid, {_sqlite_grams(text.format("entry"))} FROM {table} AS entry;
CREATE VIRTUAL TABLE {grams} USING fts5(
    words,
    content='',
    tokenize='unicode61 remove_diacritics 0'
);
CREATE TABLE {fts}_replaced (place INTEGER PRIMARY KEY, {names});
CREATE TRIGGER {fts}_before_insert BEFORE INSERT ON {table} BEGIN
    DELETE FROM {fts}_replaced;
    INSERT INTO {fts}_replaced SELECT rowid, {names} FROM {table} WHERE {key} = NEW.{key};
END;
CREATE TRIGGER {fts}_after_insert AFTER INSERT ON {table} BEGIN{unindex_replaced()}
    DELETE FROM {fts}_replaced;{index()}
END;
CREATE TRIGGER {fts}_before_update BEFORE UPDATE ON {table} WHEN OLD.{key} IS NOT NEW.{key} BEGIN
    DELETE FROM {fts}_replaced;
    INSERT INTO {fts}_replaced SELECT rowid, {names} FROM {table} WHERE {key} = NEW.{key};
END;
CREATE TRIGGER {fts}_after_update AFTER UPDATE ON {table} WHEN {changed} BEGIN{
        unindex_replaced(f"WHERE OLD.{key} IS NOT NEW.{key}")
    }
    DELETE FROM {fts}_replaced;{unindex(old, "OLD.rowid", _sqlite_grams(text.format("OLD")))}{index()}
END;
CREATE TRIGGER {fts}_after_delete AFTER DELETE ON {table} BEGIN
    DELETE FROM {fts}_replaced WHERE place = OLD.rowid;{unindex(old, "OLD.rowid", _sqlite_grams(text.format("OLD")))}
END;
INSERT INTO {fts} ({fts}) VALUES ('rebuild');
INSERT INTO {grams} (rowid, words) SELECT rowid, words FROM {grams}_text;
"""


SQLITE_SEARCH = _sqlite_search(
    "memory_items",
    ("id", "content", "tags"),
    "memory_fts",
    "memory_grams",
    f"coalesce(({_sqlite_strings('{0}.tags')}) || char(10), '') || ({_sqlite_strings('{0}.content')})",
) + _sqlite_search("kb_chunks", ("chunk_id", "content"), "kb_chunks_fts", "kb_chunks_grams", "{0}.content")

POSTGRESQL_SEARCH = f"""
CREATE FUNCTION json_strings(document text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS $$
BEGIN
    IF document !~ '^[[:space:]]*[[{{"]' THEN
        RETURN document;
    END IF;
    RETURN (
        SELECT coalesce(string_agg(node #>> '{{}}', ' '), '')
        FROM jsonb_path_query(document::jsonb, 'strict $.**') AS node
        WHERE jsonb_typeof(node) IN ('string', 'number')
    );
EXCEPTION WHEN others THEN
    RETURN document;
END;
$$;
CREATE FUNCTION search_words(document text) RETURNS tsvector LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 10000 AS $$
DECLARE
    words text := regexp_replace(left(document, {CHARACTERS}), '[!-/:-@[-`{{-~]+', ' ', 'g');
BEGIN
    IF words ~ '[{HAN}]' THEN  -- pairs from the first letter of each run on, and from the second
        words := regexp_replace(words, '([{HAN}][{HAN}]?)', ' \\1 ', 'g') || ' ' || regexp_replace(
            regexp_replace(words, '[^{HAN}]*(?:[{HAN}]([{HAN}]*)|$)', ' \\1 ', 'g'), '([{HAN}][{HAN}]?)', ' \\1 ', 'g'
        );
    END IF;
    RETURN to_tsvector('pg_catalog.simple', words);
END;
$$;
CREATE INDEX memory_items_search ON memory_items
    USING gin (search_words(coalesce(json_strings(tags) || chr(10), '') || json_strings(content)));
CREATE INDEX kb_chunks_search ON kb_chunks USING gin (search_words(content));
"""

SEARCH_REVERSE_SQLITE = """
DROP TABLE memory_fts;
DROP TABLE memory_grams;
DROP VIEW memory_grams_text;
DROP TABLE memory_fts_replaced;
DROP TABLE kb_chunks_fts;
DROP TABLE kb_chunks_grams;
DROP VIEW kb_chunks_grams_text;
DROP TABLE kb_chunks_fts_replaced;
"""

REVERSE = """
DROP TABLE schema_version;
DROP TABLE memory_items;
DROP TABLE kb_embeddings;
DROP TABLE kb_chunks;
DROP TABLE kb_sources;
DROP TABLE webui_messages;
DROP TABLE webui_sessions;
DROP TABLE task_artifact_ref;
DROP TABLE task_dependency;
DROP TABLE task_repo_scope;
DROP TABLE task_lineage;
DROP TABLE project_repos;
DROP TABLE projects;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("tasks", "0001_initial"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="KbChunk",
                    fields=[
                        ("chunk_id", models.TextField(primary_key=True, serialize=False, verbose_name="chunk")),
                        ("content", models.TextField(verbose_name="content")),
                        ("chunk_index", models.IntegerField(verbose_name="place")),
                        (
                            "metadata",
                            opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="metadata"),
                        ),
                        (
                            "created_at",
                            opsconsole.stores.models.RawTextField(
                                default=tasks.models.agentos.now_text, verbose_name="created at"
                            ),
                        ),
                    ],
                    options={
                        "verbose_name": "knowledge chunk",
                        "verbose_name_plural": "knowledge chunks",
                        "db_table": "kb_chunks",
                    },
                ),
                migrations.CreateModel(
                    name="KbSource",
                    fields=[
                        ("source_id", models.TextField(primary_key=True, serialize=False, verbose_name="source")),
                        (
                            "source_type",
                            models.TextField(
                                choices=[("file", "file"), ("directory", "folder"), ("url", "address")],
                                verbose_name="type",
                            ),
                        ),
                        ("source_path", models.TextField(verbose_name="path")),
                        (
                            "indexed_at",
                            opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="indexed at"),
                        ),
                        (
                            "metadata",
                            opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="metadata"),
                        ),
                    ],
                    options={
                        "verbose_name": "knowledge source",
                        "verbose_name_plural": "knowledge sources",
                        "db_table": "kb_sources",
                    },
                ),
                migrations.CreateModel(
                    name="WebuiSession",
                    fields=[
                        ("session_id", models.TextField(primary_key=True, serialize=False, verbose_name="session")),
                        ("user_id", models.TextField(verbose_name="user")),
                        (
                            "created_at",
                            opsconsole.stores.models.RawTextField(
                                default=tasks.models.agentos.now_text, verbose_name="created at"
                            ),
                        ),
                        (
                            "updated_at",
                            opsconsole.stores.models.RawTextField(
                                default=tasks.models.agentos.now_text, verbose_name="updated at"
                            ),
                        ),
                        (
                            "metadata",
                            opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="metadata"),
                        ),
                    ],
                    options={
                        "verbose_name": "session",
                        "verbose_name_plural": "sessions",
                        "db_table": "webui_sessions",
                    },
                ),
                migrations.AlterField(
                    model_name="task",
                    name="created_at",
                    field=opsconsole.stores.models.RawTimestampField(
                        blank=True, default=tasks.models.agentos.now_text, null=True, verbose_name="created at"
                    ),
                ),
                migrations.AlterField(
                    model_name="task",
                    name="created_by",
                    field=models.TextField(blank=True, null=True, verbose_name="created by"),
                ),
                migrations.AlterField(
                    model_name="task",
                    name="metadata",
                    field=opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="metadata"),
                ),
                migrations.AlterField(
                    model_name="task",
                    name="requirements_json",
                    field=opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="requirements"),
                ),
                migrations.AlterField(
                    model_name="task",
                    name="route_plan_json",
                    field=opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="route plan"),
                ),
                migrations.AlterField(
                    model_name="task",
                    name="router_version",
                    field=models.TextField(blank=True, null=True, verbose_name="router version"),
                ),
                migrations.AlterField(
                    model_name="task",
                    name="selected_instance_id",
                    field=models.TextField(blank=True, null=True, verbose_name="selected instance"),
                ),
                migrations.AlterField(
                    model_name="task",
                    name="session_id",
                    field=models.TextField(blank=True, null=True, verbose_name="session"),
                ),
                migrations.AlterField(
                    model_name="task",
                    name="status",
                    field=models.TextField(blank=True, default="created", null=True, verbose_name="status"),
                ),
                migrations.AlterField(
                    model_name="task",
                    name="updated_at",
                    field=opsconsole.stores.models.RawTimestampField(
                        blank=True, default=tasks.models.agentos.now_text, null=True, verbose_name="updated at"
                    ),
                ),
                migrations.CreateModel(
                    name="KbEmbedding",
                    fields=[
                        (
                            "chunk",
                            models.OneToOneField(
                                db_constraint=False,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                primary_key=True,
                                related_name="embedding",
                                serialize=False,
                                to="tasks.kbchunk",
                                verbose_name="chunk",
                            ),
                        ),
                        ("embedding", models.BinaryField(verbose_name="embedding")),
                        ("model_name", models.TextField(verbose_name="model")),
                        (
                            "created_at",
                            opsconsole.stores.models.RawTextField(
                                default=tasks.models.agentos.now_text, verbose_name="created at"
                            ),
                        ),
                    ],
                    options={
                        "verbose_name": "embedding",
                        "verbose_name_plural": "embeddings",
                        "db_table": "kb_embeddings",
                    },
                ),
                migrations.AddField(
                    model_name="kbchunk",
                    name="source",
                    field=models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="chunks",
                        to="tasks.kbsource",
                        verbose_name="source",
                    ),
                ),
                migrations.CreateModel(
                    name="Project",
                    fields=[
                        ("id", models.TextField(primary_key=True, serialize=False, verbose_name="project")),
                        ("path", models.TextField(verbose_name="path")),
                        (
                            "added_at",
                            opsconsole.stores.models.RawTimestampField(
                                blank=True, default=tasks.models.agentos.now_text, null=True, verbose_name="added at"
                            ),
                        ),
                        ("name", models.TextField(blank=True, default="", verbose_name="name")),
                        ("description", models.TextField(blank=True, null=True, verbose_name="description")),
                        (
                            "status",
                            models.TextField(
                                blank=True,
                                choices=[("active", "active"), ("archived", "archived"), ("deleted", "deleted")],
                                default="active",
                                null=True,
                                verbose_name="status",
                            ),
                        ),
                        ("tags", opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="tags")),
                        ("default_repo_id", models.TextField(blank=True, null=True, verbose_name="default repository")),
                        (
                            "default_workdir",
                            models.TextField(blank=True, null=True, verbose_name="default working folder"),
                        ),
                        (
                            "settings",
                            opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="settings"),
                        ),
                        (
                            "created_at",
                            opsconsole.stores.models.RawTimestampField(
                                blank=True, default=tasks.models.agentos.now_text, null=True, verbose_name="created at"
                            ),
                        ),
                        (
                            "updated_at",
                            opsconsole.stores.models.RawTimestampField(
                                blank=True, default=tasks.models.agentos.now_text, null=True, verbose_name="updated at"
                            ),
                        ),
                        ("created_by", models.TextField(blank=True, null=True, verbose_name="created by")),
                    ],
                    options={
                        "verbose_name": "project",
                        "verbose_name_plural": "projects",
                        "db_table": "projects",
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(("status__in", ("active", "archived", "deleted"))),
                                name="projects_status_check",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="MemoryItem",
                    fields=[
                        ("id", models.TextField(primary_key=True, serialize=False, verbose_name="memory")),
                        (
                            "scope",
                            models.TextField(
                                choices=[
                                    ("global", "global"),
                                    ("project", "project"),
                                    ("repo", "repository"),
                                    ("task", "task"),
                                    ("agent", "agent"),
                                ],
                                verbose_name="scope",
                            ),
                        ),
                        (
                            "type",
                            models.TextField(
                                choices=[
                                    ("decision", "decision"),
                                    ("convention", "convention"),
                                    ("constraint", "constraint"),
                                    ("known_issue", "known issue"),
                                ],
                                verbose_name="type",
                            ),
                        ),
                        ("content", opsconsole.stores.models.RawTextField(verbose_name="content")),
                        ("tags", opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="tags")),
                        (
                            "sources",
                            opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="sources"),
                        ),
                        (
                            "created_at",
                            opsconsole.stores.models.RawTimestampField(
                                blank=True, default=tasks.models.agentos.now_text, null=True, verbose_name="created at"
                            ),
                        ),
                        (
                            "updated_at",
                            opsconsole.stores.models.RawTimestampField(
                                blank=True, default=tasks.models.agentos.now_text, null=True, verbose_name="updated at"
                            ),
                        ),
                        (
                            "confidence",
                            models.FloatField(blank=True, default=0.5, null=True, verbose_name="confidence"),
                        ),
                        (
                            "last_used_at",
                            opsconsole.stores.models.RawTimestampField(
                                blank=True, null=True, verbose_name="last used at"
                            ),
                        ),
                        ("use_count", models.IntegerField(blank=True, default=0, null=True, verbose_name="times used")),
                        (
                            "retention_type",
                            models.TextField(blank=True, default="project", null=True, verbose_name="retention"),
                        ),
                        (
                            "expires_at",
                            opsconsole.stores.models.RawTimestampField(
                                blank=True, null=True, verbose_name="expires at"
                            ),
                        ),
                        (
                            "auto_cleanup",
                            models.IntegerField(blank=True, default=1, null=True, verbose_name="cleaned up by itself"),
                        ),
                        (
                            "project",
                            models.ForeignKey(
                                blank=True,
                                db_constraint=False,
                                null=True,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                related_name="memory_items",
                                to="tasks.project",
                                verbose_name="project",
                            ),
                        ),
                    ],
                    options={
                        "verbose_name": "memory item",
                        "verbose_name_plural": "memory",
                        "db_table": "memory_items",
                    },
                ),
                migrations.AddField(
                    model_name="kbsource",
                    name="project",
                    field=models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="kb_sources",
                        to="tasks.project",
                        verbose_name="project",
                    ),
                ),
                migrations.CreateModel(
                    name="TaskArtifactRef",
                    fields=[
                        (
                            "artifact_id",
                            models.BigAutoField(primary_key=True, serialize=False, verbose_name="artifact"),
                        ),
                        ("repo_id", models.TextField(verbose_name="repository")),
                        (
                            "ref_type",
                            models.TextField(
                                choices=[
                                    ("commit", "commit"),
                                    ("branch", "branch"),
                                    ("pr", "pull request"),
                                    ("patch", "patch"),
                                    ("file", "file"),
                                    ("tag", "tag"),
                                ],
                                verbose_name="type",
                            ),
                        ),
                        ("ref_value", models.TextField(verbose_name="value")),
                        ("summary", models.TextField(blank=True, null=True, verbose_name="summary")),
                        (
                            "created_at",
                            opsconsole.stores.models.RawTimestampField(
                                blank=True, default=tasks.models.agentos.now_text, null=True, verbose_name="created at"
                            ),
                        ),
                        (
                            "metadata",
                            opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="metadata"),
                        ),
                        (
                            "task",
                            models.ForeignKey(
                                db_constraint=False,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                related_name="artifacts",
                                to="tasks.task",
                                verbose_name="task",
                            ),
                        ),
                    ],
                    options={
                        "verbose_name": "task artifact",
                        "verbose_name_plural": "task artifacts",
                        "db_table": "task_artifact_ref",
                    },
                ),
                migrations.CreateModel(
                    name="TaskLineage",
                    fields=[
                        ("lineage_id", models.BigAutoField(primary_key=True, serialize=False, verbose_name="lineage")),
                        (
                            "kind",
                            models.TextField(
                                choices=[
                                    ("nl_request", "request in words"),
                                    ("intent", "intent"),
                                    ("execution_request", "execution request"),
                                    ("commit", "commit"),
                                ],
                                verbose_name="kind",
                            ),
                        ),
                        ("ref_id", models.TextField(verbose_name="reference")),
                        ("phase", models.TextField(blank=True, null=True, verbose_name="phase")),
                        (
                            "created_at",
                            opsconsole.stores.models.RawTimestampField(
                                blank=True, default=tasks.models.agentos.now_text, null=True, verbose_name="created at"
                            ),
                        ),
                        (
                            "metadata",
                            opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="metadata"),
                        ),
                        (
                            "task",
                            models.ForeignKey(
                                db_constraint=False,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                related_name="lineage",
                                to="tasks.task",
                                verbose_name="task",
                            ),
                        ),
                    ],
                    options={
                        "verbose_name": "task lineage",
                        "verbose_name_plural": "task lineage",
                        "db_table": "task_lineage",
                    },
                ),
                migrations.CreateModel(
                    name="TaskRepoScope",
                    fields=[
                        (
                            "scope_id",
                            models.BigAutoField(primary_key=True, serialize=False, verbose_name="scope entry"),
                        ),
                        ("repo_id", models.TextField(verbose_name="repository")),
                        (
                            "scope",
                            models.TextField(
                                blank=True,
                                choices=[("full", "full"), ("paths", "paths"), ("read_only", "read only")],
                                default="full",
                                null=True,
                                verbose_name="scope",
                            ),
                        ),
                        (
                            "path_filters",
                            opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="path filters"),
                        ),
                        (
                            "created_at",
                            opsconsole.stores.models.RawTimestampField(
                                blank=True, default=tasks.models.agentos.now_text, null=True, verbose_name="created at"
                            ),
                        ),
                        (
                            "metadata",
                            opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="metadata"),
                        ),
                        (
                            "task",
                            models.ForeignKey(
                                db_constraint=False,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                related_name="repo_scopes",
                                to="tasks.task",
                                verbose_name="task",
                            ),
                        ),
                    ],
                    options={
                        "verbose_name": "task's repository scope",
                        "verbose_name_plural": "tasks' repository scopes",
                        "db_table": "task_repo_scope",
                    },
                ),
                migrations.CreateModel(
                    name="WebuiMessage",
                    fields=[
                        ("message_id", models.TextField(primary_key=True, serialize=False, verbose_name="message")),
                        (
                            "role",
                            models.TextField(
                                choices=[("user", "user"), ("assistant", "assistant"), ("system", "system")],
                                verbose_name="role",
                            ),
                        ),
                        ("content", models.TextField(verbose_name="content")),
                        (
                            "created_at",
                            opsconsole.stores.models.RawTextField(
                                default=tasks.models.agentos.now_text, verbose_name="created at"
                            ),
                        ),
                        (
                            "metadata",
                            opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="metadata"),
                        ),
                        (
                            "session",
                            models.ForeignKey(
                                db_constraint=False,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                related_name="messages",
                                to="tasks.webuisession",
                                verbose_name="session",
                            ),
                        ),
                    ],
                    options={
                        "verbose_name": "message",
                        "verbose_name_plural": "messages",
                        "db_table": "webui_messages",
                    },
                ),
                migrations.CreateModel(
                    name="ProjectRepo",
                    fields=[
                        ("id", models.BigAutoField(primary_key=True, serialize=False, verbose_name="entry")),
                        ("repo_id", models.TextField(verbose_name="repository")),
                        ("repo_path", models.TextField(verbose_name="path")),
                        (
                            "added_at",
                            opsconsole.stores.models.RawTimestampField(
                                blank=True, default=tasks.models.agentos.now_text, null=True, verbose_name="added at"
                            ),
                        ),
                        (
                            "project",
                            models.ForeignKey(
                                db_constraint=False,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                related_name="repos",
                                to="tasks.project",
                                verbose_name="project",
                            ),
                        ),
                    ],
                    options={
                        "verbose_name": "project repository",
                        "verbose_name_plural": "project repositories",
                        "db_table": "project_repos",
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("project", "repo_id"), name="project_repos_project_id_repo_id_key"
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="TaskDependency",
                    fields=[
                        (
                            "dependency_id",
                            models.BigAutoField(primary_key=True, serialize=False, verbose_name="dependency"),
                        ),
                        (
                            "dependency_type",
                            models.TextField(
                                blank=True,
                                choices=[("blocks", "blocks"), ("requires", "requires"), ("suggests", "suggests")],
                                default="blocks",
                                null=True,
                                verbose_name="type",
                            ),
                        ),
                        ("reason", models.TextField(blank=True, null=True, verbose_name="reason")),
                        (
                            "created_at",
                            opsconsole.stores.models.RawTimestampField(
                                blank=True, default=tasks.models.agentos.now_text, null=True, verbose_name="created at"
                            ),
                        ),
                        ("created_by", models.TextField(blank=True, null=True, verbose_name="created by")),
                        (
                            "metadata",
                            opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="metadata"),
                        ),
                        (
                            "depends_on_task",
                            models.ForeignKey(
                                db_constraint=False,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                related_name="dependents",
                                to="tasks.task",
                                verbose_name="depends on",
                            ),
                        ),
                        (
                            "task",
                            models.ForeignKey(
                                db_constraint=False,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                related_name="dependencies",
                                to="tasks.task",
                                verbose_name="task",
                            ),
                        ),
                    ],
                    options={
                        "verbose_name": "task dependency",
                        "verbose_name_plural": "task dependencies",
                        "db_table": "task_dependency",
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("task", "depends_on_task"),
                                name="task_dependency_task_id_depends_on_task_id_key",
                            )
                        ],
                    },
                ),
            ],
            database_operations=[
                StoreSQL(
                    "agentos",
                    sqlite=SQLITE + SQLITE_SEARCH,
                    postgresql=POSTGRESQL + POSTGRESQL_SEARCH,
                    reverse_sqlite=REVERSE + SEARCH_REVERSE_SQLITE,
                    reverse_postgresql=REVERSE
                    + "DROP FUNCTION check_json(); DROP FUNCTION search_words(text); DROP FUNCTION json_strings(text);",
                ),
            ],
        ),
    ]
