"""Sessions that a key or a one-time link was traded for, and the links."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE sessions (
            id              uuid PRIMARY KEY,
            key_id          uuid NOT NULL REFERENCES api_keys (id),
            key_rotated_at  timestamptz,
            token_hmac      bytea NOT NULL CHECK (octet_length(token_hmac) = 32),
            created_at      timestamptz NOT NULL,
            expires_at      timestamptz NOT NULL,
            last_used_at    timestamptz NOT NULL,
            ended_at        timestamptz
        );
        CREATE INDEX sessions_listing ON sessions (created_at, id);
        COMMENT ON COLUMN sessions.key_rotated_at IS 'Of the key when the session began: a later rotation ends it';
        COMMENT ON COLUMN sessions.token_hmac IS 'HMAC-SHA-256 of the cookie under STEMMA_HOME/keys/api-keys.pepper';
        COMMENT ON COLUMN sessions.last_used_at IS 'To the minute: it is written at most once in 60 seconds';

        CREATE TABLE sign_in_links (
            id          uuid PRIMARY KEY,
            key_id      uuid NOT NULL REFERENCES api_keys (id),
            token_hmac  bytea NOT NULL CHECK (octet_length(token_hmac) = 32),
            created_at  timestamptz NOT NULL,
            expires_at  timestamptz NOT NULL,
            used_at     timestamptz
        );
        COMMENT ON TABLE sign_in_links IS 'Each lets whoever has it sign in once with its key';

        ALTER TABLE api_keys ADD COLUMN for_links boolean NOT NULL DEFAULT false;
        CREATE UNIQUE INDEX api_keys_for_links ON api_keys (for_links) WHERE for_links AND revoked_at IS NULL;
        COMMENT ON COLUMN api_keys.for_links IS 'The key that sign-in links stand for; nobody was shown its secret';
    """)


def downgrade() -> None:
    op.execute("""
        DROP TABLE sign_in_links, sessions;
        ALTER TABLE api_keys DROP COLUMN for_links;
    """)
