CREATE TABLE task_audits (
    audit_id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL,
    repo_id TEXT,
    level TEXT DEFAULT 'info',
    event_type TEXT NOT NULL,
    payload TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    decision_id TEXT,
    source_event_ts TEXT,
    supervisor_processed_at TEXT,
    verdict_id TEXT,
    FOREIGN KEY (task_id) REFERENCES tasks (task_id) ON DELETE CASCADE
);
CREATE INDEX idx_task_audits_task ON task_audits (task_id);
CREATE INDEX idx_task_audits_level ON task_audits (level);
CREATE INDEX idx_task_audits_event ON task_audits (event_type);
CREATE INDEX idx_task_audits_created ON task_audits (created_at DESC);
CREATE INDEX idx_task_audits_repo ON task_audits (repo_id);
CREATE INDEX idx_task_audits_task_repo ON task_audits (task_id, repo_id);
CREATE INDEX idx_task_audits_repo_created ON task_audits (repo_id, created_at DESC);
CREATE UNIQUE INDEX idx_task_audits_decision ON task_audits (decision_id) WHERE decision_id IS NOT NULL;
CREATE INDEX idx_task_audits_event_created ON task_audits (event_type, created_at DESC);
CREATE INDEX idx_task_audits_source_ts ON task_audits (source_event_ts) WHERE source_event_ts IS NOT NULL;
CREATE INDEX idx_task_audits_lag ON task_audits (source_event_ts, supervisor_processed_at)
    WHERE source_event_ts IS NOT NULL AND supervisor_processed_at IS NOT NULL;
CREATE INDEX idx_task_audits_event_source_ts ON task_audits (event_type, source_event_ts)
    WHERE source_event_ts IS NOT NULL;
CREATE TABLE guardian_verdicts (
    id TEXT PRIMARY KEY,
    task_id TEXT NOT NULL,
    triggered_by TEXT NOT NULL,
    policy_json TEXT NOT NULL,
    decision TEXT NOT NULL,
    reasons_json TEXT,
    created_at TEXT NOT NULL
);
CREATE TABLE supervisor_inbox (
    id TEXT PRIMARY KEY,
    task_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    event_ts TEXT NOT NULL,
    payload_json TEXT,
    status TEXT DEFAULT 'pending',
    processed_at TEXT,
    created_at TEXT NOT NULL
);
