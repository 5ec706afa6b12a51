"""Approvals: what is to be approved, byte for byte, and who decided."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE approvals (
            id                uuid PRIMARY KEY,
            position          bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
            kind              text NOT NULL,
            subject           text NOT NULL,
            media_type        text NOT NULL,
            content           bytea NOT NULL,
            content_sha256    bytea NOT NULL CHECK (content_sha256 = sha256(content)),
            diff              text NOT NULL,
            reason            text NOT NULL,
            risk              text NOT NULL CHECK (risk IN ('low', 'medium', 'high')),
            deciders          text[] NOT NULL,
            second_person     boolean NOT NULL,
            approvals_needed  integer NOT NULL CHECK (approvals_needed IN (1, 2)),
            requested_by      text NOT NULL,
            requested_at      timestamptz NOT NULL,
            expires_at        timestamptz NOT NULL CHECK (expires_at > requested_at),
            state             text NOT NULL DEFAULT 'pending'
                              CHECK (state IN ('pending', 'approved', 'denied', 'expired', 'withdrawn')),
            version           integer NOT NULL DEFAULT 1,
            settled_at        timestamptz CHECK ((settled_at IS NULL) = (state = 'pending')),
            consumed_by       text,
            consumed_at       timestamptz CHECK ((consumed_at IS NULL) = (consumed_by IS NULL)),
            CHECK (consumed_at IS NULL OR state = 'approved')
        );
        CREATE INDEX approvals_due ON approvals (expires_at) WHERE state = 'pending';
        CREATE INDEX approvals_bytes ON approvals (content_sha256, kind, subject);
        COMMENT ON COLUMN approvals.position IS 'The order of lists';
        COMMENT ON COLUMN approvals.deciders IS 'Roles that may decide; empty: every role that has approvals:decide';
        COMMENT ON COLUMN approvals.state IS 'A pending row past expires_at counts as expired and is settled later';
        COMMENT ON COLUMN approvals.version IS 'One more with every step; part of the ETag';

        CREATE TABLE approval_decisions (
            approval_id  uuid NOT NULL REFERENCES approvals (id),
            decided_by   text NOT NULL,
            role         text NOT NULL,
            verdict      text NOT NULL CHECK (verdict IN ('approve', 'deny')),
            reason       text NOT NULL,
            decided_at   timestamptz NOT NULL,
            PRIMARY KEY (approval_id, decided_by)
        );

        -- What was shown to those who decide stays as it was, and nothing leaves a final state.
        CREATE TRIGGER frozen BEFORE UPDATE ON approvals FOR EACH ROW
            WHEN ((OLD.id, OLD.kind, OLD.subject, OLD.media_type, OLD.content_sha256, OLD.diff, OLD.reason, OLD.risk,
                   OLD.deciders, OLD.second_person, OLD.approvals_needed, OLD.requested_by, OLD.requested_at,
                   OLD.expires_at, OLD.version + 1)
                  IS DISTINCT FROM
                  (NEW.id, NEW.kind, NEW.subject, NEW.media_type, NEW.content_sha256, NEW.diff, NEW.reason, NEW.risk,
                   NEW.deciders, NEW.second_person, NEW.approvals_needed, NEW.requested_by, NEW.requested_at,
                   NEW.expires_at, NEW.version)
                  OR (OLD.state <> 'pending' AND NEW.state <> OLD.state)
                  OR OLD.consumed_at IS NOT NULL)
            EXECUTE FUNCTION refuse_change();
        CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON approvals
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON approval_decisions
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
    """)


def downgrade() -> None:
    op.execute("DROP TABLE approval_decisions, approvals")
