"""The nearest earlier decisions as a function, whose plan is made once: planning took longer than looking."""

from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.execute("""
        CREATE FUNCTION similar_cases(
            sought vector, at_node text, of_model text, since timestamptz, until timestamptz, how_many integer
        ) RETURNS jsonb LANGUAGE plpgsql STABLE PARALLEL SAFE
        -- One plan for any vector reads every row unless it may not sort them.
        SET plan_cache_mode = force_generic_plan SET enable_sort = off SET enable_seqscan = off AS $$
        BEGIN
            RETURN (
                SELECT coalesce(jsonb_agg(jsonb_build_array(near.decision_id, near.distance, d.verdict, d.effect,
                                                            o.success) ORDER BY near.distance, near.decision_id), '[]')
                FROM (SELECT decision_id, embedding <=> sought AS distance FROM decision_embeddings
                    WHERE node = at_node AND model_key = of_model AND occurred_at > since AND occurred_at <= until
                    ORDER BY embedding <=> sought LIMIT how_many) AS near
                JOIN decisions AS d ON d.id = near.decision_id
                LEFT JOIN outcomes AS o ON o.decision_id = near.decision_id AND o.observed_at <= until
            );
        END $$;
        COMMENT ON FUNCTION similar_cases IS
            'The nearest decisions of a node within a time, as arrays of id, cosine distance, verdict, effect, success';
    """)


def downgrade() -> None:
    op.execute("DROP FUNCTION similar_cases;")
