"""How far what comes from elsewhere was read."""

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.execute("""
        COMMENT ON COLUMN events.sha256 IS 'Over the canonical JSON (RFC 8785) of what the sender said: id, type, '
            'entity, correlation id, time and data';

        CREATE TABLE event_sources (
            source    text COLLATE "C" PRIMARY KEY,
            cursor    text NOT NULL,
            read_at   timestamptz NOT NULL
        );
        COMMENT ON TABLE event_sources IS 'What adapters read events from, such as github/owner/name';
        COMMENT ON COLUMN event_sources.cursor IS 'How far it was read, as its adapter writes it';
    """)


def downgrade() -> None:
    op.execute("DROP TABLE event_sources;")
