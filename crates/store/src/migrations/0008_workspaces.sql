CREATE TABLE IF NOT EXISTS workspaces (
    organization_id TEXT NOT NULL CONSTRAINT workspaces_organization REFERENCES organizations (id),
    id TEXT NOT NULL CONSTRAINT workspaces_id_key UNIQUE,
    role_id TEXT NOT NULL,
    environment TEXT,
    phase TEXT NOT NULL CONSTRAINT workspaces_phase
        CHECK (phase IN ('provisioning', 'idle', 'busy', 'stopping', 'stopped', 'failed')),
    created_by TEXT,
    -- The current session. No reference, since the session refers to the workspace and comes after it.
    session_id TEXT NOT NULL,
    pod_id TEXT CONSTRAINT workspaces_pod_id_key UNIQUE,
    generation INTEGER NOT NULL,
    failed_starts INTEGER NOT NULL,
    snapshot_ref TEXT,
    last_snapshot_error TEXT,
    parent_id TEXT,
    fork_source_snapshot_ref TEXT,
    fork_point_task_count INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    archived_at INTEGER,
    CONSTRAINT workspaces_organization_id_id_key PRIMARY KEY (organization_id, id),
    CONSTRAINT workspaces_role FOREIGN KEY (organization_id, role_id) REFERENCES roles (organization_id, id),
    CONSTRAINT workspaces_created_by FOREIGN KEY (organization_id, created_by) REFERENCES members (organization_id, id)
) STRICT;
CREATE INDEX IF NOT EXISTS workspaces_by_role ON workspaces (organization_id, role_id, id);
CREATE INDEX IF NOT EXISTS workspaces_by_creator ON workspaces (organization_id, created_by, id);
CREATE INDEX IF NOT EXISTS workspaces_not_archived ON workspaces (organization_id, id) WHERE archived_at IS NULL;
CREATE INDEX IF NOT EXISTS workspaces_needing_work ON workspaces (id)
    WHERE phase IN ('provisioning', 'idle', 'busy', 'stopping');
