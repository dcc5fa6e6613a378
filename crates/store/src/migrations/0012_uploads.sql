-- What is known of files that came with tasks; their bytes are in the object store.
CREATE TABLE IF NOT EXISTS uploads (
    organization_id TEXT NOT NULL,
    id TEXT NOT NULL CONSTRAINT uploads_id_key UNIQUE,
    task_id TEXT NOT NULL,
    name TEXT NOT NULL,
    size INTEGER NOT NULL CONSTRAINT uploads_size CHECK (size >= 0),
    CONSTRAINT uploads_organization_id_id_key PRIMARY KEY (organization_id, id),
    CONSTRAINT uploads_organization_id_task_id_name_key UNIQUE (organization_id, task_id, name),
    CONSTRAINT uploads_task FOREIGN KEY (organization_id, task_id)
        REFERENCES tasks (organization_id, id) ON DELETE CASCADE
) STRICT;
