"""The `stemma` command: a thin face over the domain and the asset graph.

Commands parse arguments, call one function and print; every command answers `--json` with one JSON document on
standard output, shows progress on standard error, and ends with a documented exit code.
"""
