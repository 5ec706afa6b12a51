"""Which days of the governance loop's memory are made, and of what."""

from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE memory_days (
            product         text COLLATE "C" NOT NULL,
            node            text COLLATE "C" NOT NULL,
            day             date NOT NULL,
            input_sha256    bytea NOT NULL,
            content_sha256  bytea NOT NULL,
            rows            bigint NOT NULL,
            made_at         timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (product, node, day)
        );
        COMMENT ON COLUMN memory_days.input_sha256 IS 'Over all that the day was made of; another one: it is stale';
        COMMENT ON COLUMN entity_features.day IS 'The day (UTC) that is summed up';
        COMMENT ON COLUMN entity_features.features IS
            'What this day adds to each feature, by name and definition; a window is the sum of its days';
    """)


def downgrade() -> None:
    op.execute("DROP TABLE memory_days")
