CREATE TABLE IF NOT EXISTS approvals (
    organization_id TEXT NOT NULL,
    id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    task_id TEXT,
    created_by TEXT,
    reason TEXT NOT NULL CONSTRAINT approvals_reason CHECK (reason IN ('approval_required', 'budget_exceeded')),
    origin TEXT NOT NULL CONSTRAINT approvals_origin CHECK (origin IN ('built_in', 'provider', 'role')),
    capability TEXT NOT NULL,
    rule TEXT NOT NULL,
    policy_digest TEXT NOT NULL,
    -- What people are shown of the request: JSON.
    shown TEXT NOT NULL,
    status TEXT NOT NULL CONSTRAINT approvals_status CHECK (status IN
        ('pending', 'approved', 'denied', 'expired', 'abandoned', 'revoked')),
    abandonment TEXT,
    scope TEXT CONSTRAINT approvals_scope CHECK (scope IN ('once', 'rule')),
    until INTEGER,
    decided_by TEXT,
    decided_at INTEGER,
    comment TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    CONSTRAINT approvals_organization_id_id_key PRIMARY KEY (organization_id, id),
    CONSTRAINT approvals_workspace FOREIGN KEY (organization_id, workspace_id)
        REFERENCES workspaces (organization_id, id) ON DELETE CASCADE,
    CONSTRAINT approvals_decided_by FOREIGN KEY (organization_id, decided_by) REFERENCES members (organization_id, id)
) STRICT;
CREATE INDEX IF NOT EXISTS approvals_by_workspace ON approvals (organization_id, workspace_id, id);
CREATE INDEX IF NOT EXISTS approvals_by_status ON approvals (organization_id, status, id);
CREATE INDEX IF NOT EXISTS approvals_pending ON approvals (organization_id, id) WHERE status = 'pending';
-- What stands, or did until its time.
CREATE INDEX IF NOT EXISTS approvals_standing ON approvals (organization_id, workspace_id, until)
    WHERE status = 'approved' AND scope = 'rule';
