"""Events, decisions, outcomes, what is learned of them, and the flags that stop it."""

from alembic import op

revision = "0016"
down_revision = "0015"

_REGISTRY = """
        CREATE TABLE {table} (
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
        CREATE INDEX {table}_major ON {table} (name, major, position);
        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
        ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only;
"""


def upgrade() -> None:
    op.execute(_REGISTRY.format(table="event_type_versions"))
    op.execute(_REGISTRY.format(table="node_versions"))
    op.execute("""
        CREATE TABLE events (
            id              uuid PRIMARY KEY,
            position        bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
            type            text COLLATE "C" NOT NULL,
            type_version    text COLLATE "C" NOT NULL,
            entity          text COLLATE "C",
            correlation_id  text COLLATE "C",
            occurred_at     timestamptz NOT NULL,
            received_at     timestamptz NOT NULL,
            actor           text COLLATE "C" NOT NULL,
            data            jsonb NOT NULL,
            sha256          bytea NOT NULL
        );
        CREATE INDEX events_type ON events (type, position);
        CREATE INDEX events_occurred ON events (occurred_at, position);
        CREATE INDEX events_correlation ON events (correlation_id, position) WHERE correlation_id IS NOT NULL;
        CREATE INDEX events_entity ON events (entity, occurred_at) WHERE entity IS NOT NULL;
        COMMENT ON COLUMN events.entity IS 'What or whom it is about, such as a customer; features are kept by it';
        COMMENT ON COLUMN events.sha256 IS 'Over the canonical JSON (RFC 8785) of id, type, entity, time and data';
        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
        ALTER TABLE events ENABLE ALWAYS TRIGGER append_only;

        CREATE TABLE decision_contexts (
            sha256   bytea PRIMARY KEY CHECK (sha256 = sha256(content)),
            content  bytea NOT NULL
        );
        COMMENT ON COLUMN decision_contexts.content IS 'Canonical JSON of {event, context}: what a verdict rests on';
        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON decision_contexts
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
        ALTER TABLE decision_contexts ENABLE ALWAYS TRIGGER append_only;

        CREATE TABLE decisions (
            id              uuid PRIMARY KEY,
            position        bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
            node            text COLLATE "C" NOT NULL,
            node_version    text COLLATE "C" NOT NULL,
            event_id        uuid NOT NULL REFERENCES events (id),
            event_type      text COLLATE "C" NOT NULL,
            entity          text COLLATE "C",
            correlation_id  text COLLATE "C",
            policy          text COLLATE "C" NOT NULL,
            policy_version  text COLLATE "C" NOT NULL,
            policy_sha256   bytea NOT NULL,
            variant         text COLLATE "C" NOT NULL,
            draw            jsonb,
            verdict         text COLLATE "C" NOT NULL CHECK (verdict IN ('approve', 'deny', 'escalate')),
            level           text COLLATE "C" NOT NULL CHECK (level IN ('AL0', 'AL1', 'AL2', 'AL3')),
            reasons         jsonb NOT NULL,
            verdict_sha256  bytea NOT NULL,
            context_sha256  bytea NOT NULL REFERENCES decision_contexts (sha256),
            state           text COLLATE "C" NOT NULL CHECK (state IN ('final', 'waiting', 'resolved', 'lapsed')),
            effect          text COLLATE "C" CHECK (effect IN ('approve', 'deny')),
            approval_id     uuid,
            due_at          timestamptz CHECK (due_at IS NOT NULL OR state <> 'waiting'),
            settled_by      text COLLATE "C",
            settled_reason  text,
            settled_at      timestamptz,
            occurred_at     timestamptz NOT NULL,
            decided_at      timestamptz NOT NULL,
            decided_by      text COLLATE "C" NOT NULL,
            latency_ms      double precision NOT NULL,
            seq             bigint NOT NULL,
            entry_hash      bytea NOT NULL
        );
        CREATE INDEX decisions_node ON decisions (node, position);
        CREATE INDEX decisions_event ON decisions (event_id);
        CREATE INDEX decisions_entity ON decisions (entity, position) WHERE entity IS NOT NULL;
        CREATE INDEX decisions_correlation ON decisions (correlation_id, position) WHERE correlation_id IS NOT NULL;
        CREATE INDEX decisions_decided ON decisions (decided_at, position);
        CREATE INDEX decisions_occurred ON decisions (node, occurred_at);
        CREATE INDEX decisions_waiting ON decisions (due_at) WHERE state = 'waiting';
        COMMENT ON COLUMN decisions.draw IS 'Seed, posteriors and propensities by which the variant was drawn';
        COMMENT ON COLUMN decisions.state IS 'final: it took effect alone; waiting for a person until due_at; then '
            'resolved by one, or lapsed: what the policy says of silence holds';
        COMMENT ON COLUMN decisions.effect IS 'What holds; NULL as long as nothing does';
        COMMENT ON COLUMN decisions.seq IS 'Of its entry in the chain `decisions`';

        CREATE TABLE decision_embeddings (
            decision_id  uuid NOT NULL REFERENCES decisions (id),
            model_key    text NOT NULL,
            node         text COLLATE "C" NOT NULL,
            text_sha256  bytea NOT NULL,
            embedding    vector(384) NOT NULL,
            occurred_at  timestamptz NOT NULL,
            PRIMARY KEY (decision_id, model_key)
        );
        CREATE INDEX decision_embeddings_similar ON decision_embeddings USING hnsw (embedding vector_cosine_ops);
        CREATE INDEX decision_embeddings_node ON decision_embeddings (node, occurred_at);
        COMMENT ON COLUMN decision_embeddings.embedding IS 'Of the event''s text as its node writes it; unit length';

        CREATE TABLE outcomes (
            decision_id  uuid PRIMARY KEY REFERENCES decisions (id),
            position     bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
            metrics      jsonb NOT NULL,
            success      boolean,
            counted      boolean NOT NULL,
            observed_at  timestamptz NOT NULL,
            revision     integer NOT NULL CHECK (revision > 0),
            updated_at   timestamptz NOT NULL,
            updated_by   text COLLATE "C" NOT NULL
        );
        CREATE INDEX outcomes_observed ON outcomes (observed_at);
        COMMENT ON COLUMN outcomes.success IS 'What the node''s reward makes of the metrics; NULL: neither';
        COMMENT ON COLUMN outcomes.counted IS 'Stands in policy_variants_stats, as its decision took effect as drawn';

        CREATE TABLE policy_variants_stats (
            node        text COLLATE "C" NOT NULL,
            policy      text COLLATE "C" NOT NULL,
            variant     text COLLATE "C" NOT NULL,
            draws       bigint NOT NULL DEFAULT 0,
            successes   bigint NOT NULL DEFAULT 0 CHECK (successes >= 0),
            failures    bigint NOT NULL DEFAULT 0 CHECK (failures >= 0),
            alpha       double precision NOT NULL GENERATED ALWAYS AS (1 + successes) STORED,
            beta        double precision NOT NULL GENERATED ALWAYS AS (1 + failures) STORED,
            stopped_at  timestamptz,
            stopped_why text CHECK ((stopped_why IS NULL) = (stopped_at IS NULL)),
            updated_at  timestamptz NOT NULL,
            PRIMARY KEY (node, policy, variant)
        );
        COMMENT ON COLUMN policy_variants_stats.policy IS '`name@version`: another version learns anew';
        COMMENT ON COLUMN policy_variants_stats.stopped_at IS 'The stop rule took its traffic away';

        CREATE TABLE promotions (
            id           uuid PRIMARY KEY,
            position     bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
            node         text COLLATE "C" NOT NULL,
            policy       text COLLATE "C" NOT NULL,
            variant      text COLLATE "C" NOT NULL,
            evidence     jsonb NOT NULL,
            approval_id  uuid,
            state        text COLLATE "C" NOT NULL CHECK (state IN ('proposed', 'published', 'declined')),
            published    text COLLATE "C" CHECK ((published IS NOT NULL) = (state = 'published')),
            proposed_at  timestamptz NOT NULL,
            settled_at   timestamptz
        );
        CREATE UNIQUE INDEX promotions_open ON promotions (node, policy, variant) WHERE state = 'proposed';
        COMMENT ON COLUMN promotions.published IS 'The `name@version` in which the variant became the baseline';

        CREATE TABLE shadow_decisions (
            decision_id     uuid NOT NULL REFERENCES decisions (id),
            policy          text COLLATE "C" NOT NULL,
            policy_sha256   bytea NOT NULL,
            variant         text COLLATE "C" NOT NULL,
            verdict         text COLLATE "C" NOT NULL,
            level           text COLLATE "C" NOT NULL,
            reasons         jsonb NOT NULL,
            verdict_sha256  bytea NOT NULL,
            PRIMARY KEY (decision_id, policy, variant)
        );
        COMMENT ON TABLE shadow_decisions IS 'What a candidate would have said beside the live policy; without effect';

        CREATE TABLE node_flags (
            node    text COLLATE "C" NOT NULL,
            flag    text COLLATE "C" NOT NULL,
            value   jsonb NOT NULL,
            reason  text NOT NULL,
            set_by  text COLLATE "C" NOT NULL,
            set_at  timestamptz NOT NULL,
            PRIMARY KEY (node, flag)
        );
        COMMENT ON COLUMN node_flags.node IS 'A node, or `*`: all of them';
        CREATE FUNCTION announce_node_flags() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_notify('stemma_flags', '');
            RETURN NULL;
        END $$;
        CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON node_flags
            FOR EACH STATEMENT EXECUTE FUNCTION announce_node_flags();

        CREATE TABLE entity_features (
            node      text COLLATE "C" NOT NULL,
            day       date NOT NULL,
            entity    text COLLATE "C" NOT NULL,
            features  jsonb NOT NULL,
            PRIMARY KEY (node, entity, day)
        );
        CREATE INDEX entity_features_day ON entity_features (day, node);
        COMMENT ON COLUMN entity_features.day IS 'As of the end of this day (UTC)';

        CREATE TABLE knowledge_snapshots (
            node       text COLLATE "C" NOT NULL,
            day        date NOT NULL,
            content    jsonb NOT NULL,
            text       text NOT NULL,
            sha256     bytea NOT NULL,
            model_key  text NOT NULL,
            embedding  vector(384) NOT NULL,
            PRIMARY KEY (node, day)
        );
        COMMENT ON COLUMN knowledge_snapshots.text IS 'What the day taught, in words; redacted';

        CREATE TABLE scorecards (
            node     text COLLATE "C" NOT NULL,
            day      date NOT NULL,
            content  jsonb NOT NULL,
            PRIMARY KEY (node, day)
        );

        CREATE TABLE drift_reports (
            node     text COLLATE "C" NOT NULL,
            day      date NOT NULL,
            content  jsonb NOT NULL,
            alarmed  boolean NOT NULL,
            PRIMARY KEY (node, day)
        );
    """)


def downgrade() -> None:
    op.execute("""
        DROP TABLE drift_reports, scorecards, knowledge_snapshots, entity_features, node_flags, shadow_decisions,
            promotions, policy_variants_stats, outcomes, decision_embeddings, decisions, decision_contexts, events,
            node_versions, event_type_versions;
        DROP FUNCTION announce_node_flags();
    """)
