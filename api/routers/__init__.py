"""One module per capability; each has a `router` that `api.app` includes."""
