-- What a decision's row also tells, and what proves the log: checkpoints, each signed and naming the one before.
ALTER TABLE audit_events ADD COLUMN IF NOT EXISTS transforms_failed TEXT NOT NULL DEFAULT '{}';
ALTER TABLE audit_events ADD COLUMN IF NOT EXISTS budget_snapshot TEXT NOT NULL DEFAULT '{}';
ALTER TABLE audit_events ADD COLUMN IF NOT EXISTS budget_ceilings TEXT NOT NULL DEFAULT '{}';
-- For members who see what they caused themselves.
CREATE INDEX IF NOT EXISTS audit_events_by_user ON audit_events (organization_id, user_id, timestamp, id);
-- For the review of what a role's agents have asked for.
CREATE INDEX IF NOT EXISTS audit_events_decisions_by_role ON audit_events (organization_id, agent_role, timestamp)
    WHERE event_type = 'policy_decision';
CREATE TABLE IF NOT EXISTS audit_checkpoints (
    organization_id TEXT NOT NULL CONSTRAINT audit_checkpoints_organization REFERENCES organizations (id),
    -- Dense from 1 in each organization.
    number INTEGER NOT NULL CONSTRAINT audit_checkpoints_number CHECK (number > 0),
    -- The last row that it covers.
    seq INTEGER NOT NULL,
    -- What is signed: canonical JSON.
    payload TEXT NOT NULL,
    signature BLOB NOT NULL,
    CONSTRAINT audit_checkpoints_organization_id_number_key PRIMARY KEY (organization_id, number),
    CONSTRAINT audit_checkpoints_organization_id_seq_key UNIQUE (organization_id, seq)
) STRICT;
-- The keys that signed them, for whoever checks.
CREATE TABLE IF NOT EXISTS audit_keys (
    organization_id TEXT NOT NULL CONSTRAINT audit_keys_organization REFERENCES organizations (id),
    id TEXT NOT NULL,
    public_key BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    CONSTRAINT audit_keys_organization_id_id_key PRIMARY KEY (organization_id, id)
) STRICT;
