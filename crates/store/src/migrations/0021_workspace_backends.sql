-- Which model a running workspace was started with: JSON.
ALTER TABLE workspaces ADD COLUMN IF NOT EXISTS backend TEXT;
