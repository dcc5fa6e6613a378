-- Every kind of credential, members' own in the place of the organization's, and consents that are under way.
ALTER TABLE credentials ADD COLUMN IF NOT EXISTS allow_user_override INTEGER NOT NULL DEFAULT 0;
ALTER TABLE credentials DROP CONSTRAINT credentials_kind;
ALTER TABLE credentials ADD CONSTRAINT credentials_kind CHECK (kind IN (
    'oauth2_authorization_code', 'oauth2_client_credentials', 'oauth2_jwt_bearer', 'oauth2_jwt_bearer_with_subject',
    'oauth2_client_assertion', 'api_key', 'basic_auth', 'query_api_key', 'aws_sigv4'));
CREATE TABLE IF NOT EXISTS credential_consents (
    organization_id TEXT NOT NULL CONSTRAINT credential_consents_organization REFERENCES organizations (id),
    state_hash BLOB NOT NULL,
    cookie_hash BLOB NOT NULL,
    credential_id TEXT NOT NULL,
    started_by TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    CONSTRAINT credential_consents_organization_id_state_hash_key PRIMARY KEY (organization_id, state_hash),
    CONSTRAINT credential_consents_credential FOREIGN KEY (organization_id, credential_id)
        REFERENCES credentials (organization_id, id) ON DELETE CASCADE
) STRICT;
