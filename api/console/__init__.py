"""The console: what people look at, as server-rendered pages over the same functions of the domain as the API.

`pages` has one thin module per page, `navigation` what the shell lists, `rendering` how a template becomes a response,
`forms` what a form may send and how it is answered, `files` the static files. No rules and no SQL live here.
"""

from __future__ import annotations

from fastapi import FastAPI

from api import problems
from api.console import files, rendering
from api.console.pages import ROUTERS


def install(app: FastAPI) -> None:
    """Add the pages and their files to the application, and let browsers see its errors as pages."""
    app.include_router(files.router)
    for router in ROUTERS:
        app.include_router(router)
    problems.show_to_browsers(app, rendering.render_problem)
