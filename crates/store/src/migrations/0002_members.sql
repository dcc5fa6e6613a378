CREATE TABLE IF NOT EXISTS members (
    organization_id TEXT NOT NULL CONSTRAINT members_organization REFERENCES organizations (id),
    id TEXT NOT NULL CONSTRAINT members_id_key UNIQUE,
    email TEXT NOT NULL,
    role TEXT NOT NULL CONSTRAINT members_role CHECK (role IN ('owner', 'operator', 'member')),
    created_at INTEGER NOT NULL,
    CONSTRAINT members_organization_id_id_key PRIMARY KEY (organization_id, id),
    CONSTRAINT members_organization_id_email_key UNIQUE (organization_id, email)
) STRICT;
