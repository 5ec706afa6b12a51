"""API keys, the nonces of signed requests, and the ledger's audit chain as rows."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE api_keys (
            id            uuid PRIMARY KEY,
            name          text NOT NULL,
            role          text NOT NULL,
            scopes        text[] NOT NULL,
            signed_only   boolean NOT NULL,
            created_by    text NOT NULL,
            created_at    timestamptz NOT NULL,
            expires_at    timestamptz,
            rotated_at    timestamptz,
            revoked_at    timestamptz,
            last_used_at  timestamptz,
            secret_hmac   bytea NOT NULL CHECK (octet_length(secret_hmac) = 32)
        );
        CREATE INDEX api_keys_listing ON api_keys (created_at, id);
        COMMENT ON COLUMN api_keys.signed_only IS 'The key itself is refused as a bearer token: requests are signed';
        COMMENT ON COLUMN api_keys.last_used_at IS 'To the minute: it is written at most once in 60 seconds';
        COMMENT ON COLUMN api_keys.secret_hmac IS 'HMAC-SHA-256 of the secret under STEMMA_HOME/keys/api-keys.pepper';

        CREATE TABLE signature_nonces (
            key_id      uuid NOT NULL REFERENCES api_keys (id),
            nonce       text NOT NULL,
            expires_at  timestamptz NOT NULL,
            PRIMARY KEY (key_id, nonce)
        );
        CREATE INDEX signature_nonces_expiry ON signature_nonces (expires_at);
        COMMENT ON TABLE signature_nonces IS 'What was signed once is not taken again while its signature is in time';

        -- PostgreSQL cannot read JSON that holds U+0000; one such entry would make the whole view unreadable.
        CREATE VIEW audit AS
            SELECT seq, created_at AS ts, actor, kind AS action, subject AS resource,
                replace(convert_from(body, 'UTF8'), '\\u0000', '\\ufffd')::json #> '{data,meta}' AS meta
            FROM ledger WHERE chain = 'audit';
        COMMENT ON VIEW audit IS 'The ledger''s chain of that name: who did what, with which result';
    """)


def downgrade() -> None:
    op.execute("""
        DROP VIEW audit;
        DROP TABLE signature_nonces, api_keys;
    """)
