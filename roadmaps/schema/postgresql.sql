CREATE TABLE roadmap_tasks (
    task_id TEXT PRIMARY KEY,
    user_id TEXT,
    status TEXT NOT NULL,
    current_step TEXT,
    user_request JSON,
    roadmap_id TEXT,
    task_type TEXT,
    concept_id TEXT,
    content_type TEXT,
    created_at TIMESTAMP,
    updated_at TIMESTAMP,
    completed_at TIMESTAMP,
    error_message TEXT,
    failed_concepts JSON,
    execution_summary JSON
);
CREATE INDEX ix_roadmap_tasks_status ON roadmap_tasks (status, updated_at);
CREATE INDEX ix_roadmap_tasks_roadmap_id ON roadmap_tasks (roadmap_id);
CREATE TABLE roadmap_metadata (
    roadmap_id TEXT PRIMARY KEY,
    user_id TEXT,
    title TEXT,
    total_estimated_hours DOUBLE PRECISION,
    recommended_completion_weeks INTEGER,
    framework_data JSON,
    created_at TIMESTAMP,
    deleted_at TIMESTAMP,
    deleted_by TEXT
);
CREATE TABLE tutorial_metadata (
    tutorial_id TEXT PRIMARY KEY,
    concept_id TEXT NOT NULL,
    roadmap_id TEXT NOT NULL REFERENCES roadmap_metadata (roadmap_id),
    title TEXT,
    summary TEXT,
    content_url TEXT,
    content_status TEXT,
    content_version INTEGER,
    is_latest BOOLEAN,
    estimated_completion_time INTEGER,
    generated_at TIMESTAMP
);
CREATE INDEX ix_tutorial_metadata_concept ON tutorial_metadata (roadmap_id, concept_id);
CREATE TABLE resource_recommendation_metadata (
    id TEXT PRIMARY KEY,
    concept_id TEXT NOT NULL,
    roadmap_id TEXT NOT NULL,
    resources JSON,
    resources_count INTEGER,
    search_queries_used JSON,
    generated_at TIMESTAMP
);
CREATE INDEX ix_resource_recommendation_metadata_concept
    ON resource_recommendation_metadata (roadmap_id, concept_id);
CREATE TABLE quiz_metadata (
    quiz_id TEXT PRIMARY KEY,
    concept_id TEXT NOT NULL,
    roadmap_id TEXT NOT NULL,
    questions JSON,
    total_questions INTEGER,
    easy_count INTEGER,
    medium_count INTEGER,
    hard_count INTEGER,
    generated_at TIMESTAMP
);
CREATE INDEX ix_quiz_metadata_concept ON quiz_metadata (roadmap_id, concept_id);
