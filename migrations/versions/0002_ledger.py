"""The ledger: hash chains that nobody changes, whatever role they connect with."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE ledger (
            chain       text COLLATE "C" NOT NULL,
            seq         bigint NOT NULL CHECK (seq >= 1),
            prev_hash   bytea NOT NULL CHECK (octet_length(prev_hash) = 32),
            body        bytea NOT NULL,
            entry_hash  bytea NOT NULL CHECK (octet_length(entry_hash) = 32),
            id          uuid NOT NULL UNIQUE,
            kind        text NOT NULL,
            actor       text NOT NULL,
            subject     text NOT NULL,
            created_at  timestamptz NOT NULL,
            PRIMARY KEY (chain, seq)
        );
        CREATE INDEX ledger_subject ON ledger (chain, subject, seq);
        COMMENT ON COLUMN ledger.body IS 'The RFC 8785 bytes that were hashed; other columns repeat what it says';
        COMMENT ON COLUMN ledger.entry_hash IS 'SHA-256(prev_hash, seq in 8 bytes big-endian, body)';
        COMMENT ON COLUMN ledger.id IS 'Chosen by who appends: the same id is never appended twice';

        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP
                USING ERRCODE = 'insufficient_privilege';
        END $$;
        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
        -- Also where session_replication_role silences ordinary triggers.
        ALTER TABLE ledger ENABLE ALWAYS TRIGGER append_only;
    """)


def downgrade() -> None:
    op.execute("""
        DROP TABLE ledger;
        DROP FUNCTION refuse_change();
    """)
