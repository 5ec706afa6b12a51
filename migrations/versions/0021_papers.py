"""Papers and what became of them, in the schema `p2n` under its v0 posture: a primary key on `id` and nothing else.

No foreign keys, checks, unique constraints or defaults: the application supplies every value.
"""

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.execute("""
        CREATE SCHEMA p2n;
        CREATE TABLE p2n.papers (
            id             uuid PRIMARY KEY,
            sha256         text,
            title          text,
            kind           text,
            source         text,
            source_ref     text,
            licence        text,
            file_key       text,
            pages_key      text,
            bytes          bigint,
            pages          integer,
            status         text,
            error_code     text,
            error_message  text,
            vector_file    text,
            created_at     timestamptz,
            created_by     text,
            updated_at     timestamptz
        );
        COMMENT ON COLUMN p2n.papers.kind IS 'paper or claim_sheet';
        COMMENT ON COLUMN p2n.papers.source IS 'upload, folder, url or sample';
        COMMENT ON COLUMN p2n.papers.file_key IS 'The PDF in the file store';
        COMMENT ON COLUMN p2n.papers.pages_key IS 'The text of its pages with boxes, in the file store';
        COMMENT ON COLUMN p2n.papers.status IS 'ingested, extracted, planned or failed';
        COMMENT ON COLUMN p2n.papers.vector_file IS 'Its id at a provider: 8 characters and ***';
        CREATE TABLE p2n.claims (
            id          uuid PRIMARY KEY,
            paper_id    uuid,
            position    integer,
            metric      text,
            value       double precision,
            printed     text,
            decimals    integer,
            unit        text,
            dataset     text,
            method      text,
            split       text,
            page        integer,
            box         jsonb,
            quote       text,
            confidence  double precision,
            origin      text,
            status      text,
            revision    integer,
            created_at  timestamptz,
            updated_at  timestamptz,
            updated_by  text
        );
        COMMENT ON COLUMN p2n.claims.printed IS 'The value as the page prints it';
        COMMENT ON COLUMN p2n.claims.decimals IS 'Its printed precision: digits after the decimal point';
        COMMENT ON COLUMN p2n.claims.page IS 'From 1';
        COMMENT ON COLUMN p2n.claims.box IS '[left, top, right, bottom] in points from the top left corner of the page';
        COMMENT ON COLUMN p2n.claims.origin IS 'rules, model or person';
        COMMENT ON COLUMN p2n.claims.status IS 'proposed, accepted or rejected';
        CREATE TABLE p2n.plans (
            id          uuid PRIMARY KEY,
            paper_id    uuid,
            version     integer,
            document    jsonb,
            sha256      text,
            origin      text,
            template    text,
            created_at  timestamptz,
            created_by  text
        );
        COMMENT ON COLUMN p2n.plans.origin IS 'template, model or person';
        CREATE TABLE p2n.runs (
            id                   uuid PRIMARY KEY,
            plan_id              uuid,
            paper_id             uuid,
            alternative          text,
            status               text,
            env_hash             text,
            sandbox              text,
            job_id               uuid,
            dagster_run_id       text,
            output_sha256        text,
            deterministic        boolean,
            metrics              jsonb,
            error_code           text,
            error_message        text,
            actor                text,
            cancel_requested_at  timestamptz,
            created_at           timestamptz,
            started_at           timestamptz,
            completed_at         timestamptz
        );
        COMMENT ON COLUMN p2n.runs.alternative IS 'Which of the plan''s alternatives was run; null: what it says first';
        COMMENT ON COLUMN p2n.runs.status IS 'pending, running, succeeded, failed or cancelled';
        COMMENT ON COLUMN p2n.runs.sandbox IS 'The level of the sandbox that was in force';
        CREATE TABLE p2n.run_events (
            id       uuid PRIMARY KEY,
            run_id   uuid,
            seq      bigint,
            type     text,
            ts       timestamptz,
            payload  jsonb
        );
        COMMENT ON COLUMN p2n.run_events.seq IS 'Of its run, from 1, without gaps';
        CREATE TABLE p2n.run_series (
            id      uuid PRIMARY KEY,
            run_id  uuid,
            ts      timestamptz,
            metric  text,
            split   text,
            value   double precision,
            step    bigint
        );
        CREATE TABLE p2n.storyboards (
            id          uuid PRIMARY KEY,
            paper_id    uuid,
            run_id      uuid,
            document    jsonb,
            grade       double precision,
            created_at  timestamptz,
            updated_at  timestamptz
        );
        COMMENT ON COLUMN p2n.storyboards.grade IS 'Measured readability, in US school grades';
        CREATE TABLE p2n.reports (
            id           uuid PRIMARY KEY,
            paper_id     uuid,
            plan_id      uuid,
            run_id       uuid,
            document     jsonb,
            sha256       text,
            verdict      text,
            gap_percent  double precision,
            created_at   timestamptz
        );
        CREATE INDEX papers_sha256 ON p2n.papers (sha256);
        CREATE INDEX papers_created ON p2n.papers (created_at, id);
        CREATE INDEX claims_paper ON p2n.claims (paper_id, position);
        CREATE INDEX plans_paper ON p2n.plans (paper_id, version);
        CREATE INDEX runs_paper ON p2n.runs (paper_id, created_at, id);
        CREATE INDEX runs_status ON p2n.runs (status, created_at);
        CREATE INDEX run_events_run ON p2n.run_events (run_id, seq);
        CREATE INDEX run_series_run ON p2n.run_series (run_id, step);
        CREATE INDEX storyboards_paper ON p2n.storyboards (paper_id, created_at);
        CREATE INDEX reports_paper ON p2n.reports (paper_id, created_at);
    """)


def downgrade() -> None:
    op.execute("DROP SCHEMA p2n CASCADE;")
