"""Calls to language models: one router over several providers, and what each call used and cost.

`model` says what is asked and answered. Who speaks in an agent's name is the business of `stemma.agents`; no module
here decides anything: a verdict never depends on a model.
"""
