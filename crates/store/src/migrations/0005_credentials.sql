CREATE TABLE IF NOT EXISTS credentials (
    organization_id TEXT NOT NULL CONSTRAINT credentials_organization REFERENCES organizations (id),
    id TEXT NOT NULL,
    member_id TEXT,
    name TEXT NOT NULL,
    provider TEXT NOT NULL,
    kind TEXT NOT NULL CONSTRAINT credentials_kind CHECK (kind IN ('api_key', 'basic_auth', 'query_api_key')),
    scopes TEXT NOT NULL,
    provider_config TEXT NOT NULL,
    -- The secret, encrypted by the vault with this row's identity.
    sealed BLOB NOT NULL,
    last_minted_at INTEGER,
    last_minted_status TEXT,
    status TEXT NOT NULL CONSTRAINT credentials_status
        CHECK (status IN ('active', 'needs_reauth', 'failed', 'revoked')),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    CONSTRAINT credentials_organization_id_id_key PRIMARY KEY (organization_id, id),
    CONSTRAINT credentials_member FOREIGN KEY (organization_id, member_id)
        REFERENCES members (organization_id, id) ON DELETE CASCADE
) STRICT;
-- A name is unique among the organization's own credentials, and among those of each member.
CREATE UNIQUE INDEX IF NOT EXISTS credentials_name_key
    ON credentials (organization_id, name, COALESCE(member_id, ''));
