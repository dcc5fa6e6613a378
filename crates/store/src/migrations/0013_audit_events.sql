-- The audit log: rows that are added and never changed, in one hash chain for each organization. They refer to nothing
-- but the organization, since they outlive what they tell of.
CREATE TABLE IF NOT EXISTS audit_events (
    organization_id TEXT NOT NULL CONSTRAINT audit_events_organization REFERENCES organizations (id),
    -- Dense from 1 in each organization, in the order of commits.
    seq INTEGER NOT NULL CONSTRAINT audit_events_seq CHECK (seq > 0),
    -- SHA-256 of the hash before and the canonical JSON of this row.
    hash BLOB NOT NULL CONSTRAINT audit_events_hash CHECK (length(hash) = 32),
    id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    timestamp INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    category TEXT NOT NULL CONSTRAINT audit_events_category CHECK (category IN ('audit', 'activity')),
    actor TEXT NOT NULL CONSTRAINT audit_events_actor CHECK (actor IN ('control-plane', 'policy-engine', 'agent')),
    workspace_id TEXT,
    task_id TEXT,
    agent_role TEXT,
    agent_provider TEXT,
    destination TEXT,
    method TEXT,
    path TEXT,
    decision TEXT CONSTRAINT audit_events_decision CHECK (decision IN ('allow', 'deny')),
    reason TEXT,
    latency_ms INTEGER,
    transforms_applied INTEGER,
    validations_applied INTEGER,
    capability_name TEXT,
    phase TEXT,
    policy_type TEXT,
    detail TEXT,
    auth_applied TEXT NOT NULL,
    auth_failures TEXT NOT NULL,
    CONSTRAINT audit_events_organization_id_seq_key PRIMARY KEY (organization_id, seq),
    CONSTRAINT audit_events_organization_id_id_key UNIQUE (organization_id, id)
) STRICT;
CREATE INDEX IF NOT EXISTS audit_events_by_time ON audit_events (organization_id, timestamp, id);
CREATE INDEX IF NOT EXISTS audit_events_by_workspace ON audit_events (organization_id, workspace_id, timestamp, id)
    WHERE workspace_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS audit_events_by_task ON audit_events (organization_id, task_id, timestamp, id)
    WHERE task_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS audit_events_activity ON audit_events (organization_id, seq)
    WHERE category = 'activity';
CREATE INDEX IF NOT EXISTS audit_events_activity_of_workspace ON audit_events (organization_id, workspace_id, seq)
    WHERE category = 'activity';
CREATE INDEX IF NOT EXISTS audit_events_activity_by_workspace
    ON audit_events (organization_id, workspace_id, timestamp, id) WHERE category = 'activity';
