"""The providers of models: one module each, which turns a request into that provider's words and its answer into text.

They speak once and fail with a typed error; whom to ask, when to ask again and what it costs is the router's business.
"""
