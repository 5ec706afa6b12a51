"""Published versions of policies: never changed, never deleted."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE policy_versions (
            position        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            name            text COLLATE "C" NOT NULL,
            version         text COLLATE "C" NOT NULL,
            major           bigint NOT NULL,
            minor           bigint NOT NULL,
            patch           bigint NOT NULL,
            stable          boolean NOT NULL,
            content         bytea NOT NULL,
            content_sha256  bytea NOT NULL CHECK (content_sha256 = sha256(content)),
            changelog       text NOT NULL,
            published_by    text COLLATE "C" NOT NULL,
            published_at    timestamptz NOT NULL,
            UNIQUE (name, version)
        );
        CREATE INDEX policy_versions_major ON policy_versions (name, major, position);
        COMMENT ON COLUMN policy_versions.position IS 'The order of publishing; within a major that of precedence';
        COMMENT ON COLUMN policy_versions.stable IS 'No pre-release';
        COMMENT ON COLUMN policy_versions.content IS 'Canonical JSON (RFC 8785)';

        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON policy_versions
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
        -- Also where session_replication_role silences ordinary triggers.
        ALTER TABLE policy_versions ENABLE ALWAYS TRIGGER append_only;
    """)


def downgrade() -> None:
    op.execute("DROP TABLE policy_versions;")
