"""`python -m api`: serve the API; a mistake of the user gives one line on stderr and an exit code."""

from __future__ import annotations

import sys

from api.server import serve
from stemma.errors import StemmaError
from stemma.store.settings import load_settings


def main() -> int:
    """Serve until told to stop; returns the exit code of `stemma.errors`."""
    try:
        serve(load_settings())
    except StemmaError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
