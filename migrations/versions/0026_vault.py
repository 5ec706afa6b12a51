"""Switches over calls to models, and the sealed secrets of agents."""

from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE model_switches (
            name    text COLLATE "C" PRIMARY KEY,
            set_by  text COLLATE "C" NOT NULL,
            set_at  timestamptz NOT NULL
        );
        COMMENT ON TABLE model_switches IS 'Those that are on';
        CREATE FUNCTION announce_switches() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_notify('stemma_switches', '');
            RETURN NULL;
        END $$;
        CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON model_switches
            FOR EACH STATEMENT EXECUTE FUNCTION announce_switches();

        CREATE TABLE vault_key (
            single  boolean PRIMARY KEY DEFAULT true CHECK (single),
            key_id  text COLLATE "C" NOT NULL
        );
        COMMENT ON COLUMN vault_key.key_id IS 'Of the master key that seals: a digest that says nothing of it';
        CREATE TABLE agent_secrets (
            agent       text COLLATE "C" NOT NULL,
            name        text COLLATE "C" NOT NULL,
            sealed      bytea NOT NULL,
            key_id      text COLLATE "C" NOT NULL,
            set_by      text COLLATE "C" NOT NULL,
            created_at  timestamptz NOT NULL,
            set_at      timestamptz NOT NULL,
            PRIMARY KEY (agent, name)
        );
        COMMENT ON COLUMN agent_secrets.sealed IS 'AES-256-GCM under the master key: 12 bytes of nonce, then the rest';
    """)


def downgrade() -> None:
    op.execute("DROP TABLE agent_secrets, vault_key, model_switches; DROP FUNCTION announce_switches;")
