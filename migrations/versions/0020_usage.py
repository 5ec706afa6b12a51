"""What calls to models used: one row a call, and the founder's calls as daily totals alone."""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE provider_usage (
            id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            ts             timestamptz NOT NULL,
            request_id     text COLLATE "C" NOT NULL,
            job_id         uuid,
            actor          text COLLATE "C" NOT NULL,
            key_id         uuid,
            agent          text COLLATE "C",
            route          text COLLATE "C" NOT NULL,
            op             text COLLATE "C" NOT NULL,
            provider       text COLLATE "C" NOT NULL,
            model          text COLLATE "C" NOT NULL,
            status         text COLLATE "C" NOT NULL CHECK (status IN ('ok', 'error', 'cancelled')),
            error_code     text COLLATE "C" CHECK ((error_code IS NOT NULL) = (status = 'error')),
            tokens_in      bigint NOT NULL CHECK (tokens_in >= 0),
            tokens_cached  bigint NOT NULL CHECK (tokens_cached BETWEEN 0 AND tokens_in),
            tokens_out     bigint NOT NULL CHECK (tokens_out >= 0),
            counted        text COLLATE "C" NOT NULL CHECK (counted IN ('provider', 'estimated')),
            cost_est       numeric(20, 10) CHECK (cost_est >= 0),
            latency_ms     double precision NOT NULL CHECK (latency_ms >= 0),
            ttft_ms        double precision CHECK (ttft_ms >= 0),
            meta           jsonb NOT NULL
        );
        CREATE INDEX provider_usage_ts ON provider_usage (ts, id);
        CREATE INDEX provider_usage_agent ON provider_usage (agent, id) WHERE agent IS NOT NULL;
        CREATE INDEX provider_usage_request ON provider_usage (request_id);
        COMMENT ON COLUMN provider_usage.ts IS 'When the call ended';
        COMMENT ON COLUMN provider_usage.tokens_cached IS 'Those of tokens_in that the provider had cached';
        COMMENT ON COLUMN provider_usage.counted IS 'Whether the provider said how many, or they were counted here';
        COMMENT ON COLUMN provider_usage.cost_est IS 'US dollars; null where the price of the model is not known';
        COMMENT ON COLUMN provider_usage.ttft_ms IS 'Until the first token came; null where none did';
        COMMENT ON COLUMN provider_usage.meta IS 'Never what was asked or answered';

        CREATE TABLE founder_usage (
            day         date PRIMARY KEY,
            calls       bigint NOT NULL CHECK (calls > 0),
            unpriced    bigint NOT NULL CHECK (unpriced BETWEEN 0 AND calls),
            tokens_in   bigint NOT NULL CHECK (tokens_in >= 0),
            tokens_out  bigint NOT NULL CHECK (tokens_out >= 0),
            cost_est    numeric(20, 10) NOT NULL CHECK (cost_est >= 0)
        );
        COMMENT ON TABLE founder_usage IS 'All that is kept of calls with the role GODMODE: the totals of a UTC day';
        COMMENT ON COLUMN founder_usage.unpriced IS 'Calls whose price is not known, which cost_est therefore lacks';
    """)


def downgrade() -> None:
    op.execute("DROP TABLE founder_usage, provider_usage;")
