"""`stemma notify`: the channels, what was sent to them and what was not."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer
from rich.text import Text

from cli.output import Json, moment, out, plain, print_json, print_table, say
from cli.session import commit_all, open_studio
from stemma.errors import InvalidInput, NotFound
from stemma.notify.outbox import State
from stemma.store.settings import load_settings

if TYPE_CHECKING:
    from stemma.ledger.change import Change
    from stemma.notify.outbox import Notification
    from stemma.store.database import Connection

app = typer.Typer(help="Notifications by Slack, by mail and by webhook.", no_args_is_help=True)

_SECONDS = 300.0
_PER_CHANNEL = 10_000


@app.command()
def channels(as_json: Json = False) -> None:
    """List the channels of notify.yaml and what goes to them; nothing secret is shown."""
    from stemma.notify.channels import load_routing

    routing = load_routing(load_settings())
    found = [(name, channel.kind, routing.topics_of(name)) for name, channel in routing.channels.items()]
    if as_json:
        print_json([{"name": name, "kind": kind, "topics": topics} for name, kind, topics in found])
        return
    rows = [(name, kind, "\n".join(topics) or "nothing") for name, kind, topics in found]
    print_table("Channels", ("name", "kind", "topics"), rows, empty="There is no channel in notify.yaml.")


@app.command()
def test(channel: Annotated[str, typer.Argument(help="The name of a channel.")], as_json: Json = False) -> None:
    """Send a message to a channel now, beside the outbox, and say how that ended."""
    from stemma.notify.channels import load_routing
    from stemma.notify.delivery import send
    from stemma.notify.messages import Message

    settings = load_settings()
    found = load_routing(settings).channels.get(channel)
    if found is None:
        hint = "`stemma notify channels` lists them."
        raise NotFound("channel_unknown", f"There is no channel {channel!r} in notify.yaml.", hint=hint)
    send(found, Message("test", "Stemma can reach this channel", "Somebody ran `stemma notify test`."), settings)
    if as_json:
        print_json({"channel": channel, "delivered": True})
    else:
        say(f"{channel} took it.")


@app.command()
def outbox(
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    channel: Annotated[str | None, typer.Option(help="Only those to this channel.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List what was sent to which channel and what was not, the newest first."""
    from stemma.notify.outbox import list_notifications

    _, database = open_studio()
    with database:
        page = database.read(
            lambda connection: list_notifications(connection, state=state, channel=channel, cursor=cursor, limit=limit)
        )
    if as_json:
        print_json(page)
        return
    rows = [
        (str(n.id), n.channel, f"{n.state}\n{moment(n.settled_at or n.next_attempt_at)}", f"{n.title}\n{n.error or ''}")
        for n in page.data
    ]
    columns = ("id", "channel", "state", "message and last error")
    print_table("Notifications", columns, rows, empty="No notifications.")
    if page.next_cursor:
        out.print(Text(f"more: --cursor {page.next_cursor}", style="dim"), soft_wrap=True)


@app.command()
def retry(
    notification: Annotated[UUID | None, typer.Argument(metavar="[ID]", help="One that failed.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every one that failed.")] = False,
    as_json: Json = False,
) -> None:
    """Have what failed sent again; it goes out with the next delivery."""
    from stemma.access.principal import local_principal
    from stemma.notify import outbox
    from stemma.notify.delivery import patience

    if (notification is None) != every:
        raise InvalidInput("usage_invalid", "Name one or say --all.", hint="`stemma notify outbox --state failed`")
    settings, database = open_studio()

    def changes(connection: Connection) -> list[Change[Notification]]:
        ids = [notification] if notification else outbox.failed_ids(connection)
        return [outbox.retry(connection, local_principal(), one, patience=patience(settings)) for one in ids]

    with database:
        pending = commit_all(settings, database, changes)
    if as_json:
        print_json(plain(pending))
    else:
        say(f"To be sent again: {len(pending)}.")


@app.command()
def deliver(as_json: Json = False) -> None:
    """Deliver what is due now, as the sensor `notify` does while `stemma up` runs."""
    from stemma.ledger.service import Ledger
    from stemma.notify import delivery

    settings, database = open_studio()
    with database, Ledger(database.urls, settings) as ledger:
        report = delivery.deliver(database, ledger, settings, seconds=_SECONDS, at_most=_PER_CHANNEL)
    if as_json:
        print_json(asdict(report))
    else:
        say(f"Delivered {report.delivered}, postponed {report.postponed}, failed {report.failed}.")
