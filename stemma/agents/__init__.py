"""Agents: who they are, how they are called, and what is kept of it.

`model` says what an agent is, `roster` reads their files, `prompts` publishes what they are told, `calling` holds a
conversation with a model and tools, `relay` carries calls that outlive their connections, `scribe` writes down what
they stream, `history` reads it again, `logs` keeps one file per agent.
"""
