"""Adapters: events from other services, read page by page, each once.

`adapter` is what they have in common, `web` how they ask, `stripe` and `github` what they read, `syncing` records it.
"""
