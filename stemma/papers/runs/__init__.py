"""Runs of plans: asked for, executed in a sandbox, told of event by event, and kept as artifacts.

`model` is what they are, `lifecycle` every transition, `catalog` reads, `recorder` writes events as they come,
`artifacts` makes files of them, `environment` says in what they ran, and `execution` carries one out.
"""
