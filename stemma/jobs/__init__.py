"""Requests for work: submitted, run by Dagster, retried, cancelled, and told of event by event.

`kinds` is the table of what can be asked for, `submission` asks, `lifecycle` has every transition, `catalog` reads,
`running` is what the process that works on a job holds, `launching` asks Dagster for its run.
"""
