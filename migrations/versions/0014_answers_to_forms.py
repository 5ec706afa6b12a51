"""A form that is sent again is answered by the redirect that was kept for it, which is no 2xx."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE kept_answers DROP CONSTRAINT kept_answers_status_check,
            ADD CONSTRAINT kept_answers_status_check CHECK (status BETWEEN 200 AND 399);
    """)


def downgrade() -> None:
    op.execute("""
        DELETE FROM kept_answers WHERE status > 299;
        ALTER TABLE kept_answers DROP CONSTRAINT kept_answers_status_check,
            ADD CONSTRAINT kept_answers_status_check CHECK (status BETWEEN 200 AND 299);
    """)
