-- The keys that an organization's secrets are sealed under, each sealed under a master key that the database does not hold.
CREATE TABLE IF NOT EXISTS data_keys (
    organization_id TEXT NOT NULL CONSTRAINT data_keys_organization REFERENCES organizations (id),
    version INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    CONSTRAINT data_keys_organization_id_version_key PRIMARY KEY (organization_id, version)
) STRICT;
