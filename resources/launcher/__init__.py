"""How runs are started from a preloaded process: `template` is that process, `worker` the run it forks, `request` asks.

The run launcher that Dagster loads is `resources.warm_launcher`. docs/decisions/0015-warm-launcher.md says why.
"""
