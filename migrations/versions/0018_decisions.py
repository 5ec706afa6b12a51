"""What follows a decision's deadline, vectors found by their text, and a trigger that freezes what was decided."""

from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE decisions ADD COLUMN on_silence text COLLATE "C" CHECK (on_silence IN ('deny', 'escalate'));
        COMMENT ON COLUMN decisions.on_silence IS 'What follows the deadline: a denial, or that it is asked again';
        CREATE INDEX decisions_asked ON decisions (approval_id) WHERE state = 'waiting';
        CREATE INDEX decision_embeddings_text ON decision_embeddings (text_sha256, model_key);

        -- Of what waits, only how it is settled may change; nothing leaves a final state.
        CREATE TRIGGER frozen BEFORE UPDATE ON decisions FOR EACH ROW
            WHEN (OLD.state <> 'waiting' OR
                  (OLD.id, OLD.node, OLD.node_version, OLD.event_id, OLD.event_type, OLD.entity, OLD.correlation_id,
                   OLD.policy, OLD.policy_version, OLD.policy_sha256, OLD.variant, OLD.draw, OLD.verdict, OLD.level,
                   OLD.reasons, OLD.verdict_sha256, OLD.context_sha256, OLD.occurred_at, OLD.decided_at,
                   OLD.decided_by, OLD.latency_ms, OLD.seq, OLD.entry_hash, OLD.on_silence)
                  IS DISTINCT FROM
                  (NEW.id, NEW.node, NEW.node_version, NEW.event_id, NEW.event_type, NEW.entity, NEW.correlation_id,
                   NEW.policy, NEW.policy_version, NEW.policy_sha256, NEW.variant, NEW.draw, NEW.verdict, NEW.level,
                   NEW.reasons, NEW.verdict_sha256, NEW.context_sha256, NEW.occurred_at, NEW.decided_at,
                   NEW.decided_by, NEW.latency_ms, NEW.seq, NEW.entry_hash, NEW.on_silence))
            EXECUTE FUNCTION refuse_change();
        CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON decisions
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
    """)


def downgrade() -> None:
    op.execute("""
        DROP TRIGGER kept ON decisions;
        DROP TRIGGER frozen ON decisions;
        DROP INDEX decision_embeddings_text, decisions_asked;
        ALTER TABLE decisions DROP COLUMN on_silence;
    """)
