"""Budgets of what calls to models may use, what was used of them, and days of usage summed up."""

from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE budgets (
            id            uuid PRIMARY KEY,
            scope         text COLLATE "C" NOT NULL CHECK (scope IN ('studio', 'key', 'agent')),
            subject       text COLLATE "C" NOT NULL CHECK ((subject = '') = (scope = 'studio')),
            period        text COLLATE "C" NOT NULL CHECK (period IN ('day', 'month')),
            limit_usd     numeric(20, 10) CHECK (limit_usd >= 0),
            limit_tokens  bigint CHECK (limit_tokens >= 0),
            set_by        text COLLATE "C" NOT NULL,
            set_at        timestamptz NOT NULL,
            UNIQUE (scope, subject, period),
            CHECK (num_nonnulls(limit_usd, limit_tokens) > 0)
        );
        COMMENT ON COLUMN budgets.subject IS 'The id of a key, the name of an agent, nothing for the studio';
        COMMENT ON COLUMN budgets.period IS 'In UTC';

        CREATE TABLE budget_reservations (
            id          uuid,
            budget_id   uuid REFERENCES budgets ON DELETE CASCADE,
            usd         numeric(20, 10) NOT NULL CHECK (usd >= 0),
            tokens      bigint NOT NULL CHECK (tokens >= 0),
            expires_at  timestamptz NOT NULL,
            PRIMARY KEY (budget_id, id)
        );
        CREATE INDEX budget_reservations_id ON budget_reservations (id);
        COMMENT ON TABLE budget_reservations IS 'What calls that are under way may use at most';
        COMMENT ON COLUMN budget_reservations.expires_at IS 'After the end of the call, whose process may have died';

        CREATE TABLE spending (
            scope     text COLLATE "C" NOT NULL CHECK (scope IN ('studio', 'key', 'agent')),
            subject   text COLLATE "C" NOT NULL,
            day       date NOT NULL,
            calls     bigint NOT NULL CHECK (calls > 0),
            unpriced  bigint NOT NULL CHECK (unpriced BETWEEN 0 AND calls),
            tokens    bigint NOT NULL CHECK (tokens >= 0),
            cost_est  numeric(20, 10) NOT NULL CHECK (cost_est >= 0),
            PRIMARY KEY (scope, subject, day)
        );
        COMMENT ON TABLE spending IS
            'What was used on a UTC day, of each thing that can have a budget; changes with provider_usage';
        COMMENT ON COLUMN spending.unpriced IS 'Calls whose price is not known, which cost_est therefore lacks';

        CREATE TABLE cost_days (
            day            date NOT NULL,
            founder        boolean NOT NULL,
            provider       text COLLATE "C" NOT NULL,
            model          text COLLATE "C" NOT NULL,
            agent          text COLLATE "C" NOT NULL,
            route          text COLLATE "C" NOT NULL,
            calls          bigint NOT NULL,
            errors         bigint NOT NULL,
            cancelled      bigint NOT NULL,
            unpriced       bigint NOT NULL,
            estimated      bigint NOT NULL,
            tokens_in      bigint NOT NULL,
            tokens_cached  bigint NOT NULL,
            tokens_out     bigint NOT NULL,
            cost_est       numeric(20, 10) NOT NULL,
            PRIMARY KEY (day, founder, provider, model, agent, route)
        );
        COMMENT ON COLUMN cost_days.founder IS 'The totals of founder_usage, of which nothing else is known';
        COMMENT ON COLUMN cost_days.agent IS 'Empty where no agent called';
        COMMENT ON COLUMN cost_days.estimated IS 'Calls whose tokens were counted here';

        CREATE TABLE cost_weeks (
            week           date NOT NULL,
            founder        boolean NOT NULL,
            provider       text COLLATE "C" NOT NULL,
            model          text COLLATE "C" NOT NULL,
            calls          bigint NOT NULL,
            errors         bigint NOT NULL,
            cancelled      bigint NOT NULL,
            unpriced       bigint NOT NULL,
            tokens_in      bigint NOT NULL,
            tokens_out     bigint NOT NULL,
            cost_est       numeric(20, 10) NOT NULL,
            PRIMARY KEY (week, founder, provider, model)
        );
        COMMENT ON COLUMN cost_weeks.week IS 'Its Monday, in UTC';

        CREATE TABLE latency_days (
            day       date NOT NULL,
            by        text COLLATE "C" NOT NULL CHECK (by IN ('all', 'provider', 'model', 'agent', 'route')),
            name      text COLLATE "C" NOT NULL,
            calls     bigint NOT NULL,
            p50       double precision NOT NULL,
            p95       double precision NOT NULL,
            p99       double precision NOT NULL,
            ttft_p50  double precision,
            ttft_p95  double precision,
            ttft_p99  double precision,
            PRIMARY KEY (day, by, name)
        );
        COMMENT ON TABLE latency_days IS 'Of calls that were answered; milliseconds';

        CREATE TABLE error_budget_days (
            day    date NOT NULL,
            name   text COLLATE "C" NOT NULL,
            unit   text COLLATE "C" NOT NULL CHECK (unit IN ('calls', 'minutes')),
            total  bigint NOT NULL CHECK (total > 0),
            bad    bigint NOT NULL CHECK (bad BETWEEN 0 AND total),
            PRIMARY KEY (day, name)
        );

        CREATE TABLE health_days (
            day          date NOT NULL,
            name         text COLLATE "C" NOT NULL,
            seen         bigint NOT NULL CHECK (seen > 0),
            ok           bigint NOT NULL CHECK (ok BETWEEN 0 AND seen),
            latency_p95  double precision,
            error_rate   double precision,
            PRIMARY KEY (day, name)
        );
        COMMENT ON TABLE health_days IS 'Days of service_health, which itself is kept for a month';
        COMMENT ON COLUMN health_days.latency_p95 IS 'Seconds; the median of its minutes';
        COMMENT ON COLUMN health_days.error_rate IS 'The mean of its minutes';
    """)


def downgrade() -> None:
    op.execute("""
        DROP TABLE health_days, error_budget_days, latency_days, cost_weeks, cost_days, spending, budget_reservations,
            budgets;
    """)
