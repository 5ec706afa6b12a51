"""From documents to search: sources, conversion, chunks, embeddings, index generations and queries.

Each module owns one step; the tables are those of migration 0001.
"""
