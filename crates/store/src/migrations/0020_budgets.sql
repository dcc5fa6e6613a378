-- Counts of budgets: one row for each counter, subject and window. What is taken is leased, used or forfeited.
CREATE TABLE IF NOT EXISTS budget_counts (
    organization_id TEXT NOT NULL CONSTRAINT budget_counts_organization REFERENCES organizations (id),
    capability TEXT NOT NULL,
    counter TEXT NOT NULL,
    origin TEXT NOT NULL,
    unit TEXT NOT NULL,
    -- The task, session, workspace, role or organization whose use it is.
    subject TEXT NOT NULL,
    -- Seconds; 0 for the whole life of the subject.
    window_seconds INTEGER NOT NULL,
    -- Seconds since 1970.
    window_start INTEGER NOT NULL,
    taken INTEGER NOT NULL CONSTRAINT budget_counts_taken CHECK (taken >= 0),
    -- Whether it was said that the limit is near.
    warned INTEGER NOT NULL,
    -- The workspace that it ends with; absent where several share it. No reference, since a request may outlive its
    -- workspace by a moment.
    workspace_id TEXT,
    -- When the window ends.
    ends_at INTEGER,
    CONSTRAINT budget_counts_key
        PRIMARY KEY (organization_id, capability, counter, origin, unit, subject, window_seconds, window_start)
) STRICT;
CREATE INDEX IF NOT EXISTS budget_counts_ended ON budget_counts (ends_at) WHERE ends_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS budget_counts_of_workspace ON budget_counts (organization_id, workspace_id)
    WHERE workspace_id IS NOT NULL;
