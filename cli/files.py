"""`stemma files`: giving stored files away by signed URLs."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.durations import duration
from cli.output import Json, moment, print_json, say
from stemma.errors import NotFound
from stemma.store.settings import load_settings

app = typer.Typer(help="Files that the studio stored.", no_args_is_help=True)


@app.command()
def sign(
    path: Annotated[str, typer.Argument(help="The file's key, such as maps/roads.pmtiles.")],
    expires: Annotated[str, typer.Option(help="How long the URL holds, such as 30m, 12h or 7d.")] = "1h",
    name: Annotated[str | None, typer.Option(help="The name to save it under; it is then never shown.")] = None,
    as_json: Json = False,
) -> None:
    """Print a URL by which whoever has it can read one stored file, until it expires."""
    from stemma.store import signed_urls
    from stemma.store.files import FileStore

    settings = load_settings()
    lasting = duration(expires, "--expires")
    if not FileStore.open_default(settings).exists(path):
        raise NotFound("file_not_found", f"There is no file {path}.", field="key")
    signed = signed_urls.sign(settings, path, lasting, name=name)
    url = settings.api_url + signed.url
    if as_json:
        print_json({"url": url, "expires_at": signed.expires_at})
    else:
        say(url)
        say(f"It can be read until {moment(signed.expires_at)}, while `stemma up` runs.")
