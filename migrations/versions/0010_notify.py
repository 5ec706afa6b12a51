"""The outbox of notifications, and the sources whose signed webhooks are taken."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE notifications (
            id          uuid PRIMARY KEY,
            topic       text COLLATE "C" NOT NULL,
            title       text NOT NULL,
            text        text NOT NULL,
            data        jsonb NOT NULL,
            created_at  timestamptz NOT NULL,
            routed_at   timestamptz
        );
        CREATE INDEX notifications_unrouted ON notifications (created_at) WHERE routed_at IS NULL;
        CREATE INDEX notifications_age ON notifications (created_at);
        COMMENT ON COLUMN notifications.routed_at IS 'When its deliveries were made; null: not looked at yet';

        CREATE TABLE notification_deliveries (
            id               uuid PRIMARY KEY,
            position         bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
            notification_id  uuid NOT NULL REFERENCES notifications (id) ON DELETE CASCADE,
            channel          text COLLATE "C" NOT NULL,
            state            text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
            attempts         integer NOT NULL DEFAULT 0,
            next_attempt_at  timestamptz NOT NULL,
            deadline         timestamptz NOT NULL,
            settled_at       timestamptz,
            error_code       text,
            error            text,
            UNIQUE (notification_id, channel),
            CHECK ((state = 'pending') = (settled_at IS NULL))
        );
        CREATE INDEX notification_deliveries_due ON notification_deliveries (channel, next_attempt_at)
            WHERE state = 'pending';
        CREATE INDEX notification_deliveries_state ON notification_deliveries (state, position);
        COMMENT ON COLUMN notification_deliveries.position IS 'The order of lists';
        COMMENT ON COLUMN notification_deliveries.attempts IS 'Attempts that began; who settles one names it';
        COMMENT ON COLUMN notification_deliveries.next_attempt_at IS 'While an attempt runs, the end of its lease';

        CREATE TABLE webhook_sources (
            name            text COLLATE "C" PRIMARY KEY,
            job_kind        text NOT NULL,
            input_pointer   text NOT NULL,
            secret          bytea NOT NULL,
            previous        bytea,
            previous_until  timestamptz,
            created_by      text NOT NULL,
            created_at      timestamptz NOT NULL,
            rotated_at      timestamptz,
            CHECK ((previous IS NULL) = (previous_until IS NULL))
        );
        COMMENT ON COLUMN webhook_sources.secret IS 'Sealed under STEMMA_HOME/keys/webhook-sources.key';
        COMMENT ON COLUMN webhook_sources.input_pointer IS 'JSON Pointer of what becomes the input of the job';
    """)


def downgrade() -> None:
    op.execute("DROP TABLE webhook_sources, notification_deliveries, notifications")
