"""Reading the journals: indexes for the filters of `audit` and `historian`, and a notification of what was appended."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("""
        -- Partial, so that chains which nobody lists by these filters do not pay for them.
        CREATE INDEX ledger_journal_kind ON ledger (chain, kind, seq)
            WHERE chain IN ('audit', 'historian');
        CREATE INDEX ledger_journal_family ON ledger (chain, split_part(kind, '.', 1), seq)
            WHERE chain IN ('audit', 'historian');
        CREATE INDEX ledger_journal_actor ON ledger (chain, actor, seq)
            WHERE chain IN ('audit', 'historian');
        CREATE INDEX ledger_journal_time ON ledger (chain, created_at, seq)
            WHERE chain IN ('audit', 'historian');

        CREATE FUNCTION announce_entries() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_notify('stemma_ledger', chain) FROM (SELECT DISTINCT chain FROM appended) AS chains;
            RETURN NULL;
        END $$;
        CREATE TRIGGER announce AFTER INSERT ON ledger REFERENCING NEW TABLE AS appended
            FOR EACH STATEMENT EXECUTE FUNCTION announce_entries();
    """)


def downgrade() -> None:
    op.execute("""
        DROP TRIGGER announce ON ledger;
        DROP FUNCTION announce_entries();
        DROP INDEX ledger_journal_kind, ledger_journal_family, ledger_journal_actor, ledger_journal_time;
    """)
