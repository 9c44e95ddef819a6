CREATE TABLE test_records (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    brand_name TEXT NOT NULL,
    test_date TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    ai_models_used TEXT,
    questions_used TEXT,
    overall_score REAL,
    total_tests INTEGER,
    results_summary BLOB,
    detailed_results BLOB,
    is_summary_compressed INTEGER DEFAULT 0,
    is_detailed_compressed INTEGER DEFAULT 0,
    execution_id TEXT
);
CREATE INDEX idx_test_records_execution_id ON test_records (execution_id);
CREATE TABLE task_statuses (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT UNIQUE NOT NULL,
    progress INTEGER DEFAULT 0,
    stage TEXT NOT NULL,
    status_text TEXT,
    is_completed BOOLEAN DEFAULT 0,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
