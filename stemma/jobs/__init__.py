"""Requests for work: submitted, run by Dagster, retried, cancelled, and told of event by event.

`kinds` is the table of what can be asked for, `submission` asks, `named` asks for schedulers outside, `lifecycle` has
every transition and `steps` what each writes, `catalog` reads, `launching` asks Dagster for a run. `running` is what
the process that works on a job holds.
"""
