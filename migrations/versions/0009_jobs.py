"""Jobs: requests for work with a lifecycle, and what happened to each, in order."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE jobs (
            id                   uuid PRIMARY KEY,
            position             bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
            kind                 text COLLATE "C" NOT NULL,
            input                jsonb NOT NULL,
            priority             integer NOT NULL,
            actor                text COLLATE "C" NOT NULL,
            role                 text NOT NULL,
            submitted_at         timestamptz NOT NULL,
            scheduled_at         timestamptz,
            max_attempts         integer NOT NULL CHECK (max_attempts > 0),
            state                text COLLATE "C" NOT NULL DEFAULT 'queued'
                                 CHECK (state IN ('queued', 'running', 'done', 'error', 'cancelled')),
            due_at               timestamptz NOT NULL,
            attempt              integer NOT NULL DEFAULT 0 CHECK (attempt BETWEEN 0 AND max_attempts),
            run_id               text,
            lease_until          timestamptz CHECK ((lease_until IS NOT NULL) = (state = 'running')),
            cancel_requested_at  timestamptz,
            started_at           timestamptz CHECK (started_at IS NOT NULL OR state <> 'running'),
            finished_at          timestamptz
                                 CHECK ((finished_at IS NOT NULL) = (state IN ('done', 'error', 'cancelled'))),
            error_code           text CHECK ((error_code IS NOT NULL) = (state = 'error')),
            error_message        text CHECK ((error_message IS NULL) = (error_code IS NULL)),
            last_event           bigint NOT NULL DEFAULT 0
        );
        CREATE INDEX jobs_kind ON jobs (kind, state, position);
        CREATE INDEX jobs_state ON jobs (state, position);
        CREATE INDEX jobs_actor ON jobs (actor, position);
        CREATE INDEX jobs_due ON jobs (due_at) WHERE state = 'queued';
        CREATE INDEX jobs_leases ON jobs (lease_until) WHERE state = 'running';
        COMMENT ON COLUMN jobs.position IS 'The order of lists';
        COMMENT ON COLUMN jobs.due_at IS 'Not started before: when it was submitted, its schedule, the end of a pause';
        COMMENT ON COLUMN jobs.run_id IS 'The Dagster run that claimed the newest attempt';
        COMMENT ON COLUMN jobs.lease_until IS 'Moved on by the run while it lives; past it, the run counts as dead';
        COMMENT ON COLUMN jobs.last_event IS 'The seq of its newest event; whoever adds one holds this row';

        CREATE TRIGGER settled BEFORE UPDATE ON jobs FOR EACH ROW
            WHEN (OLD.state IN ('done', 'error', 'cancelled'))
            EXECUTE FUNCTION refuse_change();

        CREATE TABLE job_events (
            job_id  uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
            seq     bigint NOT NULL,
            kind    text NOT NULL,
            at      timestamptz NOT NULL DEFAULT clock_timestamp(),
            data    jsonb NOT NULL,
            PRIMARY KEY (job_id, seq)
        );
        COMMENT ON COLUMN job_events.seq IS 'Without gaps, in the order of commits, from 1';

        CREATE FUNCTION announce_job_events() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_notify('stemma_jobs', job_id::text) FROM (SELECT DISTINCT job_id FROM added) AS jobs;
            RETURN NULL;
        END $$;
        CREATE TRIGGER announce AFTER INSERT ON job_events REFERENCING NEW TABLE AS added
            FOR EACH STATEMENT EXECUTE FUNCTION announce_job_events();
        CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON job_events
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
    """)


def downgrade() -> None:
    op.execute("""
        DROP TABLE job_events, jobs;
        DROP FUNCTION announce_job_events();
    """)
