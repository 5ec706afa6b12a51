"""The domain of Stemma as plain typed Python: one package per capability.

Nothing here imports Dagster, FastAPI or the command line; those are thin faces over this package.
"""
