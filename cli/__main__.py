"""Lets `python -m cli` do what the installed `stemma` command does."""

from cli.main import main

main()
