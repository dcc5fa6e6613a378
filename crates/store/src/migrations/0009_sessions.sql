CREATE TABLE IF NOT EXISTS sessions (
    organization_id TEXT NOT NULL,
    id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    role_id TEXT NOT NULL,
    created_by TEXT,
    title TEXT,
    tags TEXT NOT NULL,
    -- What the session's events add up to.
    summary TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    finished_at INTEGER,
    CONSTRAINT sessions_organization_id_id_key PRIMARY KEY (organization_id, id),
    CONSTRAINT sessions_workspace FOREIGN KEY (organization_id, workspace_id)
        REFERENCES workspaces (organization_id, id) ON DELETE CASCADE,
    CONSTRAINT sessions_role FOREIGN KEY (organization_id, role_id) REFERENCES roles (organization_id, id),
    CONSTRAINT sessions_created_by FOREIGN KEY (organization_id, created_by) REFERENCES members (organization_id, id)
) STRICT;
CREATE INDEX IF NOT EXISTS sessions_by_workspace ON sessions (organization_id, workspace_id, id);
CREATE INDEX IF NOT EXISTS sessions_by_role ON sessions (organization_id, role_id, id);
CREATE INDEX IF NOT EXISTS sessions_by_creator ON sessions (organization_id, created_by, id);
