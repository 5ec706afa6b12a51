"""Stripe: what happened to invoices, from its list of events, which says everything of the last 30 days.

https://docs.stripe.com/api/events/list: the newest come first; `ending_before` gives what is next newer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid5

from stemma.errors import InvalidInput, NotFound, Unavailable
from stemma.governance.adapters.adapter import Batch
from stemma.governance.adapters.web import Query, Web
from stemma.governance.events.model import NewEvent
from stemma.store.settings import Settings

EVENT_TYPE: Final = "InvoiceReported"

_CHANGES: Final = ("finalized", "paid", "payment_failed", "voided", "marked_uncollectible")
_PAGE: Final = 100
_IDS: Final = UUID("1f4e4c56-2d0e-4b61-9b77-8a0a3c9a6d11")


class StripeInvoices:
    """An account's invoices: its customers are the entities, an invoice is what its events belong to."""

    source = "stripe/invoices"

    def __init__(self, web: Web) -> None:
        self._web = web

    def read(self, cursor: str | None) -> Iterator[Batch]:
        """See `Adapter.read`; the cursor is the id of the last of Stripe's events."""
        if cursor is not None:
            try:
                yield from self._newer(cursor)
            except (NotFound, InvalidInput):
                # Stripe forgets an event after 30 days, and all that was before it.
                pass
            else:
                return
        yield from reversed([_batch(page) for page in self._pages()])

    def _newer(self, cursor: str) -> Iterator[Batch]:
        more = True
        while more:
            page, more = self._page([("ending_before", cursor)])
            if not page:
                return
            cursor = page[0]["id"]
            yield _batch(page)

    def _pages(self) -> Iterator[list[Mapping[str, Any]]]:
        query: Query = []
        more = True
        while more:
            page, more = self._page(query)
            if not page:
                return
            query = [("starting_after", page[-1]["id"])]
            yield page

    def _page(self, query: Query) -> tuple[list[Mapping[str, Any]], bool]:
        types = [("types[]", f"invoice.{change}") for change in _CHANGES]
        answer = self._web.get("/v1/events", [("limit", str(_PAGE)), *types, *query])
        try:
            page: list[Mapping[str, Any]] = list(answer["data"])
            if not all(isinstance(item["id"], str) for item in page):
                raise _unreadable()
            return page, bool(answer["has_more"])
        except (KeyError, TypeError) as error:
            raise _unreadable() from error


def open_stripe(settings: Settings) -> Web:
    """The service, with the key of the settings; raises InvalidInput where there is none."""
    if settings.stripe_key is None:
        hint = "Make a restricted key that may read events and invoices."
        raise InvalidInput("stripe_key_missing", "There is no key for Stripe.", field="STEMMA_STRIPE_KEY", hint=hint)
    headers = {"Authorization": f"Bearer {settings.stripe_key.get_secret_value()}"}
    return Web("Stripe", settings.stripe_url, headers, setting="STEMMA_STRIPE_KEY")


def _batch(page: list[Mapping[str, Any]]) -> Batch:
    try:
        return Batch(tuple(_event(item) for item in reversed(page)), page[0]["id"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _unreadable() from error


def _event(item: Mapping[str, Any]) -> NewEvent:
    invoice = item["data"]["object"]
    said = {
        "invoice": invoice["id"],
        "change": item["type"].removeprefix("invoice."),
        "status": invoice.get("status"),
        "currency": invoice["currency"],
        "amount_due": invoice["amount_due"],
        "amount_paid": invoice.get("amount_paid"),
        "attempts": invoice.get("attempt_count"),
        "due_at": _time(invoice["due_date"]).isoformat() if invoice.get("due_date") else None,
    }
    return NewEvent(
        type=EVENT_TYPE,
        data={name: value for name, value in said.items() if value is not None},
        occurred_at=_time(item["created"]),
        entity=f"stripe/{invoice['customer']}" if isinstance(invoice.get("customer"), str) else None,
        correlation_id=f"stripe/{invoice['id']}",
        id=uuid5(_IDS, item["id"]),
    )


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _unreadable() -> Unavailable:
    return Unavailable("source_unavailable", "Stripe answers with something that is no list of events of invoices.")
