CREATE TABLE IF NOT EXISTS roles (
    organization_id TEXT NOT NULL CONSTRAINT roles_organization REFERENCES organizations (id),
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    display_name TEXT,
    description TEXT,
    provider_id TEXT NOT NULL,
    model TEXT,
    capabilities TEXT,
    environment TEXT NOT NULL CONSTRAINT roles_environment
        CHECK (environment IN ('development', 'staging', 'production')),
    environment_description TEXT,
    task_timeout_seconds INTEGER,
    idle_timeout_seconds INTEGER,
    thinking_effort TEXT CONSTRAINT roles_thinking_effort
        CHECK (thinking_effort IN ('high', 'medium', 'low', 'off')),
    max_continuations INTEGER,
    max_context_tokens INTEGER,
    pool_policy TEXT NOT NULL CONSTRAINT roles_pool_policy CHECK (pool_policy IN ('', 'static', 'dynamic')),
    pool_size INTEGER,
    pool_max_size INTEGER,
    pack_ids TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    archived_at INTEGER,
    CONSTRAINT roles_organization_id_id_key PRIMARY KEY (organization_id, id),
    CONSTRAINT roles_organization_id_name_key UNIQUE (organization_id, name),
    CONSTRAINT roles_provider FOREIGN KEY (organization_id, provider_id) REFERENCES providers (organization_id, id)
) STRICT;
CREATE INDEX IF NOT EXISTS roles_by_provider ON roles (organization_id, provider_id, id);
