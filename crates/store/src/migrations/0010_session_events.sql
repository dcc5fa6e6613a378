-- The journal of each session: rows that are added and never changed.
CREATE TABLE IF NOT EXISTS session_events (
    organization_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    -- Dense from 1 in each session.
    sequence INTEGER NOT NULL CONSTRAINT session_events_sequence CHECK (sequence > 0),
    id TEXT NOT NULL,
    ts INTEGER NOT NULL,
    turn_id TEXT,
    context TEXT NOT NULL,
    payload TEXT NOT NULL,
    CONSTRAINT session_events_organization_id_session_id_sequence_key
        PRIMARY KEY (organization_id, session_id, sequence),
    CONSTRAINT session_events_organization_id_session_id_id_key UNIQUE (organization_id, session_id, id),
    CONSTRAINT session_events_session FOREIGN KEY (organization_id, session_id)
        REFERENCES sessions (organization_id, id) ON DELETE CASCADE
) STRICT;
