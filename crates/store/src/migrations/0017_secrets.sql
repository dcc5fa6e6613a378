CREATE TABLE IF NOT EXISTS secrets (
    organization_id TEXT NOT NULL CONSTRAINT secrets_organization REFERENCES organizations (id),
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    -- The value, encrypted by the vault with this row's identity, or a reference to where it is.
    sealed BLOB NOT NULL,
    created_by TEXT,
    updated_by TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    CONSTRAINT secrets_organization_id_id_key PRIMARY KEY (organization_id, id),
    CONSTRAINT secrets_organization_id_name_key UNIQUE (organization_id, name)
) STRICT;
