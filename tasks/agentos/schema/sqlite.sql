CREATE TABLE tasks (
    task_id TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    status TEXT DEFAULT 'created',
    session_id TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    created_by TEXT,
    metadata TEXT,
    route_plan_json TEXT,
    requirements_json TEXT,
    selected_instance_id TEXT,
    router_version TEXT
);
CREATE INDEX idx_tasks_status ON tasks (status);
CREATE INDEX idx_tasks_session ON tasks (session_id);
CREATE INDEX idx_tasks_created ON tasks (created_at DESC);
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

-- Full-text search. The documented FTS5 tables index a run of Chinese as one word, so each has a second index of
-- pairs of characters ("grams"): every Chinese, Japanese or Korean character starts a word with the next character.
-- Both index the first 64,000 characters. Of JSON, the strings and numbers are indexed. `tasks/agentos/search.py`
-- queries with the same words. The text is cut into pieces of 128 characters first: `substr` of a long text counts
-- its characters from the start each time.

CREATE VIRTUAL TABLE memory_fts USING fts5(
    id UNINDEXED,
    content, tags,
    content='memory_items',
    content_rowid='rowid'
);
CREATE VIRTUAL TABLE memory_grams USING fts5(
    words,
    content='',
    tokenize='unicode61 remove_diacritics 0'
);
-- Rows that leave the index: old versions, and what INSERT OR REPLACE removes without firing a trigger.
CREATE TABLE memory_fts_replaced (place INTEGER PRIMARY KEY, id, content, tags);
CREATE VIEW memory_grams_text (rowid, words) AS SELECT entry.rowid, (
    WITH RECURSIVE source(text) AS (SELECT substr(
        coalesce((CASE WHEN json_valid(CAST(entry.tags AS TEXT)) THEN (
            SELECT coalesce(group_concat(atom, ' '), '') FROM json_tree(entry.tags) WHERE type IN ('text', 'integer', 'real')
        ) ELSE entry.tags END) || char(10), '')
        || (CASE WHEN json_valid(CAST(entry.content AS TEXT)) THEN (
            SELECT coalesce(group_concat(atom, ' '), '') FROM json_tree(entry.content) WHERE type IN ('text', 'integer', 'real')
        ) ELSE entry.content END), 1, 64000
    )),
    piece(start, characters) AS (
        SELECT 1, substr(text, 1, 129) FROM source WHERE text GLOB '*[々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽]*'
        UNION ALL
        SELECT start + 128, substr((SELECT text FROM source), start + 128, 129) FROM piece WHERE length(characters) = 129
    ),
    place(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM place WHERE i < 128),
    pairs(pair) AS (
        SELECT substr(characters, i, 2) FROM piece CROSS JOIN place WHERE i <= length(characters)
    )
    SELECT coalesce(group_concat(
        CASE
            WHEN pair GLOB '[々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽][々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽]' THEN ' ' || pair
            WHEN pair GLOB '[々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽]*' THEN ' ' || substr(pair, 1, 1) || ' '
            ELSE substr(pair, 1, 1)
        END, ''), (SELECT text FROM source)) FROM pairs
) FROM memory_items AS entry;
CREATE VIEW memory_grams_replaced (rowid, words) AS SELECT entry.place, (
    WITH RECURSIVE source(text) AS (SELECT substr(
        coalesce((CASE WHEN json_valid(CAST(entry.tags AS TEXT)) THEN (
            SELECT coalesce(group_concat(atom, ' '), '') FROM json_tree(entry.tags) WHERE type IN ('text', 'integer', 'real')
        ) ELSE entry.tags END) || char(10), '')
        || (CASE WHEN json_valid(CAST(entry.content AS TEXT)) THEN (
            SELECT coalesce(group_concat(atom, ' '), '') FROM json_tree(entry.content) WHERE type IN ('text', 'integer', 'real')
        ) ELSE entry.content END), 1, 64000
    )),
    piece(start, characters) AS (
        SELECT 1, substr(text, 1, 129) FROM source WHERE text GLOB '*[々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽]*'
        UNION ALL
        SELECT start + 128, substr((SELECT text FROM source), start + 128, 129) FROM piece WHERE length(characters) = 129
    ),
    place(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM place WHERE i < 128),
    pairs(pair) AS (
        SELECT substr(characters, i, 2) FROM piece CROSS JOIN place WHERE i <= length(characters)
    )
    SELECT coalesce(group_concat(
        CASE
            WHEN pair GLOB '[々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽][々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽]' THEN ' ' || pair
            WHEN pair GLOB '[々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽]*' THEN ' ' || substr(pair, 1, 1) || ' '
            ELSE substr(pair, 1, 1)
        END, ''), (SELECT text FROM source)) FROM pairs
) FROM memory_fts_replaced AS entry;
CREATE TRIGGER memory_fts_before_insert BEFORE INSERT ON memory_items BEGIN
    DELETE FROM memory_fts_replaced;
    INSERT INTO memory_fts_replaced SELECT rowid, id, content, tags FROM memory_items WHERE id = NEW.id OR rowid = NEW.rowid;
END;
CREATE TRIGGER memory_fts_after_insert AFTER INSERT ON memory_items BEGIN
    DELETE FROM memory_fts_replaced WHERE id IS NOT NEW.id AND place <> NEW.rowid; -- the rowid was not known before the insert
    INSERT INTO memory_fts (memory_fts, rowid, id, content, tags) SELECT 'delete', place, id, content, tags FROM memory_fts_replaced;
    INSERT INTO memory_grams (memory_grams, rowid, words) SELECT 'delete', rowid, words FROM memory_grams_replaced;
    DELETE FROM memory_fts_replaced;
    INSERT INTO memory_fts (rowid, id, content, tags) VALUES (NEW.rowid, NEW.id, NEW.content, NEW.tags);
    INSERT INTO memory_grams (rowid, words) SELECT rowid, words FROM memory_grams_text WHERE rowid = NEW.rowid;
END;
CREATE TRIGGER memory_fts_before_update BEFORE UPDATE ON memory_items
WHEN OLD.rowid IS NOT NEW.rowid OR OLD.id IS NOT NEW.id OR OLD.content IS NOT NEW.content OR OLD.tags IS NOT NEW.tags BEGIN
    DELETE FROM memory_fts_replaced;
    INSERT INTO memory_fts_replaced
    SELECT rowid, id, content, tags FROM memory_items WHERE (id = NEW.id OR rowid = NEW.rowid) AND rowid <> OLD.rowid;
END;
CREATE TRIGGER memory_fts_after_update AFTER UPDATE ON memory_items
WHEN OLD.rowid IS NOT NEW.rowid OR OLD.id IS NOT NEW.id OR OLD.content IS NOT NEW.content OR OLD.tags IS NOT NEW.tags BEGIN
    DELETE FROM memory_fts_replaced WHERE place = OLD.rowid;
    INSERT INTO memory_fts_replaced VALUES (OLD.rowid, OLD.id, OLD.content, OLD.tags);
    INSERT INTO memory_fts (memory_fts, rowid, id, content, tags) SELECT 'delete', place, id, content, tags FROM memory_fts_replaced;
    INSERT INTO memory_grams (memory_grams, rowid, words) SELECT 'delete', rowid, words FROM memory_grams_replaced;
    DELETE FROM memory_fts_replaced;
    INSERT INTO memory_fts (rowid, id, content, tags) VALUES (NEW.rowid, NEW.id, NEW.content, NEW.tags);
    INSERT INTO memory_grams (rowid, words) SELECT rowid, words FROM memory_grams_text WHERE rowid = NEW.rowid;
END;
CREATE TRIGGER memory_fts_after_delete AFTER DELETE ON memory_items BEGIN
    DELETE FROM memory_fts_replaced WHERE place = OLD.rowid;
    INSERT INTO memory_fts_replaced VALUES (OLD.rowid, OLD.id, OLD.content, OLD.tags);
    INSERT INTO memory_fts (memory_fts, rowid, id, content, tags) VALUES ('delete', OLD.rowid, OLD.id, OLD.content, OLD.tags);
    INSERT INTO memory_grams (memory_grams, rowid, words) SELECT 'delete', rowid, words FROM memory_grams_replaced WHERE rowid = OLD.rowid;
    DELETE FROM memory_fts_replaced WHERE place = OLD.rowid;
END;

CREATE VIRTUAL TABLE kb_chunks_fts USING fts5(
    chunk_id UNINDEXED,
    content,
    content='kb_chunks',
    content_rowid='rowid'
);
CREATE VIRTUAL TABLE kb_chunks_grams USING fts5(
    words,
    content='',
    tokenize='unicode61 remove_diacritics 0'
);
-- Rows that leave the index: old versions, and what INSERT OR REPLACE removes without firing a trigger.
CREATE TABLE kb_chunks_fts_replaced (place INTEGER PRIMARY KEY, chunk_id, content);
CREATE VIEW kb_chunks_grams_text (rowid, words) AS SELECT entry.rowid, (
    WITH RECURSIVE source(text) AS (SELECT substr(
        entry.content, 1, 64000
    )),
    piece(start, characters) AS (
        SELECT 1, substr(text, 1, 129) FROM source WHERE text GLOB '*[々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽]*'
        UNION ALL
        SELECT start + 128, substr((SELECT text FROM source), start + 128, 129) FROM piece WHERE length(characters) = 129
    ),
    place(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM place WHERE i < 128),
    pairs(pair) AS (
        SELECT substr(characters, i, 2) FROM piece CROSS JOIN place WHERE i <= length(characters)
    )
    SELECT coalesce(group_concat(
        CASE
            WHEN pair GLOB '[々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽][々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽]' THEN ' ' || pair
            WHEN pair GLOB '[々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽]*' THEN ' ' || substr(pair, 1, 1) || ' '
            ELSE substr(pair, 1, 1)
        END, ''), (SELECT text FROM source)) FROM pairs
) FROM kb_chunks AS entry;
CREATE VIEW kb_chunks_grams_replaced (rowid, words) AS SELECT entry.place, (
    WITH RECURSIVE source(text) AS (SELECT substr(
        entry.content, 1, 64000
    )),
    piece(start, characters) AS (
        SELECT 1, substr(text, 1, 129) FROM source WHERE text GLOB '*[々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽]*'
        UNION ALL
        SELECT start + 128, substr((SELECT text FROM source), start + 128, 129) FROM piece WHERE length(characters) = 129
    ),
    place(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM place WHERE i < 128),
    pairs(pair) AS (
        SELECT substr(characters, i, 2) FROM piece CROSS JOIN place WHERE i <= length(characters)
    )
    SELECT coalesce(group_concat(
        CASE
            WHEN pair GLOB '[々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽][々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽]' THEN ' ' || pair
            WHEN pair GLOB '[々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽]*' THEN ' ' || substr(pair, 1, 1) || ' '
            ELSE substr(pair, 1, 1)
        END, ''), (SELECT text FROM source)) FROM pairs
) FROM kb_chunks_fts_replaced AS entry;
CREATE TRIGGER kb_chunks_fts_before_insert BEFORE INSERT ON kb_chunks BEGIN
    DELETE FROM kb_chunks_fts_replaced;
    INSERT INTO kb_chunks_fts_replaced SELECT rowid, chunk_id, content FROM kb_chunks WHERE chunk_id = NEW.chunk_id OR rowid = NEW.rowid;
END;
CREATE TRIGGER kb_chunks_fts_after_insert AFTER INSERT ON kb_chunks BEGIN
    DELETE FROM kb_chunks_fts_replaced WHERE chunk_id IS NOT NEW.chunk_id AND place <> NEW.rowid; -- the rowid was not known before the insert
    INSERT INTO kb_chunks_fts (kb_chunks_fts, rowid, chunk_id, content) SELECT 'delete', place, chunk_id, content FROM kb_chunks_fts_replaced;
    INSERT INTO kb_chunks_grams (kb_chunks_grams, rowid, words) SELECT 'delete', rowid, words FROM kb_chunks_grams_replaced;
    DELETE FROM kb_chunks_fts_replaced;
    INSERT INTO kb_chunks_fts (rowid, chunk_id, content) VALUES (NEW.rowid, NEW.chunk_id, NEW.content);
    INSERT INTO kb_chunks_grams (rowid, words) SELECT rowid, words FROM kb_chunks_grams_text WHERE rowid = NEW.rowid;
END;
CREATE TRIGGER kb_chunks_fts_before_update BEFORE UPDATE ON kb_chunks
WHEN OLD.rowid IS NOT NEW.rowid OR OLD.chunk_id IS NOT NEW.chunk_id OR OLD.content IS NOT NEW.content BEGIN
    DELETE FROM kb_chunks_fts_replaced;
    INSERT INTO kb_chunks_fts_replaced
    SELECT rowid, chunk_id, content FROM kb_chunks WHERE (chunk_id = NEW.chunk_id OR rowid = NEW.rowid) AND rowid <> OLD.rowid;
END;
CREATE TRIGGER kb_chunks_fts_after_update AFTER UPDATE ON kb_chunks
WHEN OLD.rowid IS NOT NEW.rowid OR OLD.chunk_id IS NOT NEW.chunk_id OR OLD.content IS NOT NEW.content BEGIN
    DELETE FROM kb_chunks_fts_replaced WHERE place = OLD.rowid;
    INSERT INTO kb_chunks_fts_replaced VALUES (OLD.rowid, OLD.chunk_id, OLD.content);
    INSERT INTO kb_chunks_fts (kb_chunks_fts, rowid, chunk_id, content) SELECT 'delete', place, chunk_id, content FROM kb_chunks_fts_replaced;
    INSERT INTO kb_chunks_grams (kb_chunks_grams, rowid, words) SELECT 'delete', rowid, words FROM kb_chunks_grams_replaced;
    DELETE FROM kb_chunks_fts_replaced;
    INSERT INTO kb_chunks_fts (rowid, chunk_id, content) VALUES (NEW.rowid, NEW.chunk_id, NEW.content);
    INSERT INTO kb_chunks_grams (rowid, words) SELECT rowid, words FROM kb_chunks_grams_text WHERE rowid = NEW.rowid;
END;
CREATE TRIGGER kb_chunks_fts_after_delete AFTER DELETE ON kb_chunks BEGIN
    DELETE FROM kb_chunks_fts_replaced WHERE place = OLD.rowid;
    INSERT INTO kb_chunks_fts_replaced VALUES (OLD.rowid, OLD.chunk_id, OLD.content);
    INSERT INTO kb_chunks_fts (kb_chunks_fts, rowid, chunk_id, content) VALUES ('delete', OLD.rowid, OLD.chunk_id, OLD.content);
    INSERT INTO kb_chunks_grams (kb_chunks_grams, rowid, words) SELECT 'delete', rowid, words FROM kb_chunks_grams_replaced WHERE rowid = OLD.rowid;
    DELETE FROM kb_chunks_fts_replaced WHERE place = OLD.rowid;
END;
