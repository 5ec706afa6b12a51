"""What is materialized: one module per product, each a thin call into the domain.

An asset calls one domain function and turns its report into metadata and a data version. Rules, SQL and file
access belong to `stemma/`; what starts an asset belongs to `sensors/` and `schedules/`.
"""
