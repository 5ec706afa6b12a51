"""Answers that are kept under an Idempotency-Key."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE kept_answers (
            caller          text COLLATE "C" NOT NULL,
            route           text COLLATE "C" NOT NULL,
            key             text COLLATE "C" NOT NULL CHECK (key ~ '^[ -~]{1,255}$'),
            request_sha256  bytea NOT NULL CHECK (octet_length(request_sha256) = 32),
            status          smallint NOT NULL CHECK (status BETWEEN 200 AND 299),
            headers         jsonb NOT NULL,
            body            bytea NOT NULL,
            created_at      timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (caller, route, key)
        );
        CREATE INDEX kept_answers_age ON kept_answers (created_at);
        COMMENT ON COLUMN kept_answers.caller IS 'Who sent it, as ledger entries name actors';
        COMMENT ON COLUMN kept_answers.route IS 'Method and path template';
        COMMENT ON COLUMN kept_answers.body IS 'The bytes that a repeat is answered with';
    """)


def downgrade() -> None:
    op.execute("DROP TABLE kept_answers")
