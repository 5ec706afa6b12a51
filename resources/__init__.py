"""What assets are handed: the store (settings, database), the embedding model, progress, and the Dagster instance.

Resources connect the domain to Dagster; they hold no rules of their own.
"""
