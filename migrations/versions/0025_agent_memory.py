"""What agents remember, in four tiers, and of which days it was distilled."""

from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE agent_memories (
            id          uuid PRIMARY KEY,
            position    bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
            agent       text COLLATE "C" NOT NULL,
            owner       text COLLATE "C",
            tier        text COLLATE "C" NOT NULL CHECK (tier IN ('short_term', 'episodic', 'semantic', 'vector')),
            text        text NOT NULL CHECK (text <> ''),
            source      jsonb NOT NULL,
            origins     uuid[] NOT NULL,
            day         date,
            created_by  text COLLATE "C" NOT NULL,
            created_at  timestamptz NOT NULL,
            expires_at  timestamptz,
            pinned_by   text COLLATE "C",
            pinned_at   timestamptz,
            model_key   text COLLATE "C",
            embedding   vector,
            CHECK ((pinned_by IS NULL) = (pinned_at IS NULL)),
            CHECK ((model_key IS NULL) = (embedding IS NULL)),
            CHECK (day IS NULL OR tier = 'semantic')
        );
        CREATE INDEX agent_memories_owner ON agent_memories (agent, owner, tier, position);
        CREATE INDEX agent_memories_origins ON agent_memories USING gin (origins) WHERE origins <> '{}';
        CREATE INDEX agent_memories_expiry ON agent_memories (expires_at) WHERE pinned_at IS NULL;
        COMMENT ON COLUMN agent_memories.owner IS 'The actor whose calls recall it; null: everybody''s';
        COMMENT ON COLUMN agent_memories.text IS 'Redacted before it was stored';
        COMMENT ON COLUMN agent_memories.source IS 'Where it comes from: a call, a person, or a day that was distilled';
        COMMENT ON COLUMN agent_memories.origins IS 'What it was distilled from; it is forgotten with any of them';
        COMMENT ON COLUMN agent_memories.day IS 'The day (UTC) that it was distilled from';
        COMMENT ON COLUMN agent_memories.embedding IS 'Of the text, unit length; null until it was made';

        CREATE TABLE agent_memory_days (
            agent           text COLLATE "C" NOT NULL,
            owner           text COLLATE "C" NOT NULL,
            day             date NOT NULL,
            input_sha256    bytea NOT NULL,
            content_sha256  bytea NOT NULL,
            facts           bigint NOT NULL,
            closed          boolean NOT NULL DEFAULT false,
            made_at         timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (agent, owner, day)
        );
        COMMENT ON COLUMN agent_memory_days.input_sha256 IS 'Over the episodes of the day; another one: it is stale';
        COMMENT ON COLUMN agent_memory_days.closed IS 'Something of it was forgotten: it is not distilled again';
    """)


def downgrade() -> None:
    op.execute("DROP TABLE agent_memory_days, agent_memories")
