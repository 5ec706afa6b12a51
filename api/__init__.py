"""Online requests: the application, its dependencies, and one router per capability.

Routers translate between HTTP and `stemma`; rules, SQL and file access belong to the domain. The API
imports neither Dagster nor the assets.
"""
