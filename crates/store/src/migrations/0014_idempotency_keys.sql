-- Answers to requests that came with a key, to be given again until they expire.
CREATE TABLE IF NOT EXISTS idempotency_keys (
    organization_id TEXT NOT NULL CONSTRAINT idempotency_keys_organization REFERENCES organizations (id),
    actor TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash BLOB NOT NULL CONSTRAINT idempotency_keys_request_hash CHECK (length(request_hash) = 32),
    response BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    CONSTRAINT idempotency_keys_organization_id_actor_key_key PRIMARY KEY (organization_id, actor, key)
) STRICT;
CREATE INDEX IF NOT EXISTS idempotency_keys_by_expiry ON idempotency_keys (expires_at);
