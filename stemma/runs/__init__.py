"""Runs as people look at them: what happened when, what was logged, what changed, and what depends on whose word.

`model` is what a run is, `dagster` asks Dagster's webserver for it, `changes` compares what a run made with what was
there before, `story` puts it together with receipts, job and approvals, `cancelling` ends one. Starting a run is the
business of `stemma.jobs`.
"""
