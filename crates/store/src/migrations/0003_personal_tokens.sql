CREATE TABLE IF NOT EXISTS personal_tokens (
    organization_id TEXT NOT NULL,
    id TEXT NOT NULL,
    member_id TEXT NOT NULL,
    label TEXT NOT NULL,
    prefix TEXT NOT NULL,
    -- SHA-256 of the secret, which is stored nowhere.
    secret_hash BLOB NOT NULL CONSTRAINT personal_tokens_secret_hash_key UNIQUE
        CONSTRAINT personal_tokens_secret_hash CHECK (length(secret_hash) = 32),
    created_at INTEGER NOT NULL,
    revoked_at INTEGER,
    CONSTRAINT personal_tokens_organization_id_id_key PRIMARY KEY (organization_id, id),
    CONSTRAINT personal_tokens_member FOREIGN KEY (organization_id, member_id)
        REFERENCES members (organization_id, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX IF NOT EXISTS personal_tokens_by_member ON personal_tokens (organization_id, member_id, id);
