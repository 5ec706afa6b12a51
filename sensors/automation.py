"""The sensor that evaluates automation conditions; it is named here so that it runs without being switched on."""

import dagster as dg

automation = dg.AutomationConditionSensorDefinition(
    "derived_data",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Materializes derived assets whose inputs changed, by the condition in assets/automation.py",
)
