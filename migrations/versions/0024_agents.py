"""Agents: versions of what they are told, their calls, and what these streamed."""

from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE prompt_versions (
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
        CREATE INDEX prompt_versions_major ON prompt_versions (name, major, position);
        COMMENT ON COLUMN prompt_versions.position IS 'The order of publishing; within a major that of precedence';
        COMMENT ON COLUMN prompt_versions.stable IS 'No pre-release';
        COMMENT ON COLUMN prompt_versions.content IS 'Canonical JSON (RFC 8785)';

        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON prompt_versions
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
        ALTER TABLE prompt_versions ENABLE ALWAYS TRIGGER append_only;

        CREATE TABLE agent_calls (
            job_id       uuid PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
            position     bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
            agent        text COLLATE "C" NOT NULL,
            actor        text COLLATE "C" NOT NULL,
            request_id   text COLLATE "C" NOT NULL,
            prompt       text COLLATE "C" NOT NULL,
            memory       boolean NOT NULL,
            asked        text NOT NULL,
            context      jsonb,
            answered     text,
            provider     text COLLATE "C",
            model        text COLLATE "C",
            tokens_in    bigint CHECK (tokens_in >= 0),
            tokens_out   bigint CHECK (tokens_out >= 0),
            cost_est     numeric(20, 10) CHECK (cost_est >= 0),
            citations    jsonb NOT NULL DEFAULT '[]'
        );
        CREATE INDEX agent_calls_agent ON agent_calls (agent, position);
        CREATE INDEX agent_calls_actor ON agent_calls (actor, agent, position);
        COMMENT ON COLUMN agent_calls.position IS 'The order of lists';
        COMMENT ON COLUMN agent_calls.prompt IS 'What the agent was told, as name@version in prompt_versions';
        COMMENT ON COLUMN agent_calls.answered IS 'All that was answered by the time the call ended, however it did';
        COMMENT ON COLUMN agent_calls.cost_est IS 'US dollars; null where the price of a model is not known';

        CREATE TABLE agent_chunks (
            job_id     uuid NOT NULL REFERENCES agent_calls ON DELETE CASCADE,
            first_seq  bigint NOT NULL CHECK (first_seq > 0),
            events     jsonb NOT NULL,
            PRIMARY KEY (job_id, first_seq)
        );
        COMMENT ON TABLE agent_chunks IS 'What calls streamed, some 200 ms of it a row';
        COMMENT ON COLUMN agent_chunks.events IS
            'In their order, numbered from first_seq on: a text is a token, [kind, data] another event';
    """)


def downgrade() -> None:
    op.execute("DROP TABLE agent_chunks, agent_calls, prompt_versions;")
