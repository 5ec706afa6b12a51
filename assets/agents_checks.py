"""A blocking check on what agents learned: a fact that nobody said is none."""

import dagster as dg

from assets.agents import semantic_memory
from resources.store import StoreResource


@dg.asset_check(
    asset=semantic_memory, blocking=True, description="Each fact stands in an episode of its own agent and caller"
)
def facts_are_grounded(store: StoreResource) -> dg.AssetCheckResult:
    """Compare every fact that was distilled with the episodes that it names."""
    from stemma.agents.memory.distilling import ungrounded

    problems = store.database.read(ungrounded)
    return dg.AssetCheckResult(
        passed=not problems, description="; ".join(problems[:3]) or None, metadata={"problems": len(problems)}
    )
