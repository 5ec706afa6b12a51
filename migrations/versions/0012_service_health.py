"""How the studio's services stood, minute by minute; rows are deleted after thirty days."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE service_health (
            id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            instance     text COLLATE "C" NOT NULL,
            name         text COLLATE "C" NOT NULL,
            status       text NOT NULL,
            latency_p95  double precision CHECK (latency_p95 >= 0),
            error_rate   double precision CHECK (error_rate BETWEEN 0 AND 1),
            ts           timestamptz NOT NULL
        );
        CREATE INDEX service_health_name ON service_health (name, instance, id);
        CREATE INDEX service_health_ts ON service_health (ts);
        COMMENT ON COLUMN service_health.instance IS 'The machine whose API process looked';
        COMMENT ON COLUMN service_health.latency_p95 IS 'Seconds, over the minute before ts';
    """)


def downgrade() -> None:
    op.execute("DROP TABLE service_health;")
