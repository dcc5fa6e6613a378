CREATE TABLE IF NOT EXISTS api_keys (
    organization_id TEXT NOT NULL CONSTRAINT api_keys_organization REFERENCES organizations (id),
    id TEXT NOT NULL,
    label TEXT NOT NULL,
    prefix TEXT NOT NULL,
    permission_set TEXT NOT NULL CONSTRAINT api_keys_permission_set
        CHECK (permission_set IN ('full_access', 'submit_observe', 'read_only')),
    -- SHA-256 of the secret, which is stored nowhere.
    secret_hash BLOB NOT NULL CONSTRAINT api_keys_secret_hash_key UNIQUE
        CONSTRAINT api_keys_secret_hash CHECK (length(secret_hash) = 32),
    created_at INTEGER NOT NULL,
    revoked_at INTEGER,
    CONSTRAINT api_keys_organization_id_id_key PRIMARY KEY (organization_id, id)
) STRICT;
