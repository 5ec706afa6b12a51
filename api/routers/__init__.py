"""One module per capability; each has a `router` that `api.app` includes."""

from typing import Final

API: Final = "/api/v1"
