"""Personal data: which key of which subject lives; the keys themselves are files (docs/decisions/0012)."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE subject_keys (
            key_id      uuid PRIMARY KEY,
            pseudonym   text COLLATE "C" NOT NULL,
            created_at  timestamptz NOT NULL DEFAULT now(),
            erased_at   timestamptz
        );
        CREATE UNIQUE INDEX subject_keys_alive ON subject_keys (pseudonym) WHERE erased_at IS NULL;
        CREATE INDEX subject_keys_pseudonym ON subject_keys (pseudonym);
        COMMENT ON TABLE subject_keys IS 'One row per key that ever sealed something; no key material';
        COMMENT ON COLUMN subject_keys.pseudonym IS 'HMAC-SHA-256 of the subject''s name, shortened to 128 bits';
        COMMENT ON COLUMN subject_keys.erased_at IS 'The time of the entry subject.erased on the chain personal';
    """)


def downgrade() -> None:
    op.execute("DROP TABLE subject_keys")
