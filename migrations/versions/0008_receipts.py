"""Receipts by what they are asked for: the ledger has their content, this table finds them."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE receipts (
            id         uuid PRIMARY KEY,
            seq        bigint NOT NULL UNIQUE,
            asset      text COLLATE "C" NOT NULL,
            partition  text COLLATE "C",
            run_id     text COLLATE "C" NOT NULL
        );
        CREATE INDEX receipts_asset ON receipts (asset, partition, seq);
        CREATE INDEX receipts_run ON receipts (run_id, seq);
        COMMENT ON TABLE receipts IS 'Repeats what entries of the chain `receipts` say; `stemma verify` compares them';

        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON receipts
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
        ALTER TABLE receipts ENABLE ALWAYS TRIGGER append_only;
    """)


def downgrade() -> None:
    op.execute("DROP TABLE receipts;")
