CREATE TABLE IF NOT EXISTS providers (
    organization_id TEXT NOT NULL CONSTRAINT providers_organization REFERENCES organizations (id),
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL CONSTRAINT providers_kind
        CHECK (kind IN ('anthropic', 'openai', 'gemini', 'vertex', 'azure-openai')),
    display_name TEXT,
    domain TEXT NOT NULL,
    -- By name and not by reference: a provider may name a credential that is yet to come.
    credential_name TEXT,
    default_model TEXT,
    capabilities TEXT,
    config TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    archived_at INTEGER,
    CONSTRAINT providers_organization_id_id_key PRIMARY KEY (organization_id, id),
    CONSTRAINT providers_organization_id_name_key UNIQUE (organization_id, name)
) STRICT;
