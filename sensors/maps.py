"""Building a map layer again when its source, or what is said of it, changed."""

import json

import dagster as dg

from assets.jobs import map_build
from assets.maps import MAP_LAYERS
from stemma.errors import StemmaError


@dg.sensor(
    name="map_sources",
    description="Builds a map layer whose source changed, or that was described anew; a URL is fetched once a day",
    job=map_build,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def map_sources(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request a run for each layer whose source differs from what the cursor remembers.

    A source that cannot be reached now is looked at again at the next tick.
    """
    from stemma.maps import catalog, origins
    from stemma.store.database import Database
    from stemma.store.settings import load_settings

    settings = load_settings()
    if not settings.ff_map_pipeline:
        return dg.SkipReason("FF_MAP_PIPELINE is false: map layers are built when somebody asks for it.")
    with Database.open(settings) as database:
        layers = database.read(catalog.list_layers)
    number, known = _remembered(context.cursor)
    seen, unreachable = {}, []
    for layer in layers:
        try:
            seen[layer.id] = f"{layer.updated_at.isoformat()} {origins.fingerprint(layer.layer, layer.folder)}"
        except StemmaError as error:
            unreachable.append(f"{layer.id}: {error}")
            seen[layer.id] = known.get(layer.id, "")
    changed = [layer for layer, words in seen.items() if words != known.get(layer, "")]
    if not changed:
        return dg.SkipReason("; ".join(unreachable) or "No source of a map layer changed.")
    # The number tells a source that is as it once was from one that was built already.
    cursor = json.dumps([number + 1, seen])
    return dg.SensorResult(
        cursor=cursor,
        dynamic_partitions_requests=[MAP_LAYERS.build_add_request(changed)],
        run_requests=[dg.RunRequest(run_key=f"map:{number + 1}:{layer}", partition_key=layer) for layer in changed],
    )


def _remembered(cursor: str | None) -> tuple[int, dict[str, str]]:
    """How many times something changed, and what was seen of each layer; nothing for a cursor from elsewhere."""
    try:
        number, seen = json.loads(cursor or "[0, {}]")
        return int(number), dict(seen)
    except (ValueError, TypeError):
        return 0, {}
