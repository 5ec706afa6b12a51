"""Switches over calls to models, and the sealed secrets of agents."""

from alembic import op

revision = "0026"
down_revision = "0023"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE model_switches (
            name    text COLLATE "C" PRIMARY KEY,
            set_by  text COLLATE "C" NOT NULL,
            set_at  timestamptz NOT NULL
        );
        COMMENT ON TABLE model_switches IS 'Those that are on';
        CREATE FUNCTION notify_switches() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_notify('stemma_switches', '');
            RETURN NULL;
        END $$;
        CREATE TRIGGER told AFTER INSERT OR UPDATE OR DELETE ON model_switches
            FOR EACH STATEMENT EXECUTE FUNCTION notify_switches();

        CREATE TABLE agent_secrets (
            agent       text COLLATE "C" NOT NULL,
            name        text COLLATE "C" NOT NULL,
            sealed      bytea NOT NULL,
            key_id      text COLLATE "C" NOT NULL,
            created_by  text COLLATE "C" NOT NULL,
            created_at  timestamptz NOT NULL,
            rotated_at  timestamptz,
            PRIMARY KEY (agent, name)
        );
        COMMENT ON COLUMN agent_secrets.sealed IS 'AES-256-GCM under the master key of the vault';
        COMMENT ON COLUMN agent_secrets.key_id IS 'Which master key sealed it: a digest that says nothing of the key';
    """)


def downgrade() -> None:
    op.execute("DROP TABLE agent_secrets, model_switches; DROP FUNCTION notify_switches;")
