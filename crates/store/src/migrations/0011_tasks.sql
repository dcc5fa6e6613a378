CREATE TABLE IF NOT EXISTS tasks (
    organization_id TEXT NOT NULL,
    id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    -- Dense from 1 in each workspace: the order in which tasks are worked on and listed.
    ordinal INTEGER NOT NULL CONSTRAINT tasks_ordinal CHECK (ordinal > 0),
    session_id TEXT NOT NULL,
    description TEXT NOT NULL,
    phase TEXT NOT NULL CONSTRAINT tasks_phase CHECK (phase IN
        ('submitted', 'delivered', 'running', 'compacting', 'completed', 'failed', 'cancelled', 'delivery_failed')),
    overrides TEXT NOT NULL,
    metadata TEXT,
    created_by TEXT,
    cancel_requested INTEGER NOT NULL CONSTRAINT tasks_cancel_requested CHECK (cancel_requested IN (0, 1)),
    reason TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    completed_at INTEGER,
    CONSTRAINT tasks_organization_id_id_key PRIMARY KEY (organization_id, id),
    CONSTRAINT tasks_organization_id_workspace_id_ordinal_key UNIQUE (organization_id, workspace_id, ordinal),
    CONSTRAINT tasks_workspace FOREIGN KEY (organization_id, workspace_id)
        REFERENCES workspaces (organization_id, id) ON DELETE CASCADE,
    CONSTRAINT tasks_session FOREIGN KEY (organization_id, session_id)
        REFERENCES sessions (organization_id, id) ON DELETE CASCADE,
    CONSTRAINT tasks_created_by FOREIGN KEY (organization_id, created_by) REFERENCES members (organization_id, id)
) STRICT;
CREATE INDEX IF NOT EXISTS tasks_by_session ON tasks (organization_id, session_id);
CREATE INDEX IF NOT EXISTS tasks_submitted ON tasks (organization_id, workspace_id, ordinal)
    WHERE phase = 'submitted';
-- An agent has one task at a time.
CREATE UNIQUE INDEX IF NOT EXISTS tasks_organization_id_workspace_id_key ON tasks (organization_id, workspace_id)
    WHERE phase IN ('delivered', 'running', 'compacting');
