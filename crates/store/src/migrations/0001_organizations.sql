-- The tenants. Every other table has `organization_id`, first in its key and in its references, so that no row can
-- refer to another organization's.
CREATE TABLE IF NOT EXISTS organizations (
    id TEXT NOT NULL CONSTRAINT organizations_id_key PRIMARY KEY,
    name TEXT NOT NULL CONSTRAINT organizations_name_key UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;
