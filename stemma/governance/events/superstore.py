"""The orders of Tableau's sample superstore, from the PyPI package `bokeh_sampledata`, as requests for discounts and
what came of them.

Each row is a product in an order in the United States, with its sales after discount, its discount and its profit. The
request is for that discount at list price, sales / (1 - discount); the profit is the outcome. The rows name neither
customer nor date. So the entity is the market, the customers of one segment in one postal code, and the time is made:
the rows follow each other evenly, in the order of the file.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid5

from stemma.errors import CheckFailed, Unavailable
from stemma.governance.events.model import NewEvent

EVENT_TYPE: Final = "DiscountRequested"
ROWS: Final = 9_994
FIRST_DAY: Final = date(2025, 1, 1)
DAYS: Final = 365

_PACKAGE: Final = "bokeh_sampledata"
_FILE: Final = "SampleSuperstore.csv.gz"
_SHA256: Final = "ff11c60a6a0af97c20a2c46158a861893fc4891b5639f2273d0fcc87e7573c5d"
_IDS: Final = UUID("5c2b63f4-9d0e-4a36-8f57-0b1d1f6f7a52")
_SETTLED: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Order:
    """A request for a discount, and what came of it in the data, where the discount was given."""

    event: NewEvent
    metrics: dict[str, float]
    observed_at: datetime


def orders(*, first_day: date = FIRST_DAY, days: int = DAYS, at_most: int = ROWS) -> Iterator[Order]:
    """The first `at_most` rows, spread over `days` from `first_day` on; the same ids, times and contents every time.

    Raises Unavailable where the package is not installed, CheckFailed where its file is another than the one known.
    """
    rows = list(csv.DictReader(_text().splitlines()))[:at_most]
    begin = datetime.combine(first_day, time(), UTC)
    step = timedelta(days=days) / max(len(rows), 1)
    for place, row in enumerate(rows):
        at = begin + step * place
        event = NewEvent(
            type=EVENT_TYPE,
            data=_data(row, place),
            occurred_at=at.replace(microsecond=0),
            entity=f"{row['Segment']}/{row['Postal Code']}",
            correlation_id=f"superstore/{place + 1}",
            id=uuid5(_IDS, f"{first_day.isoformat()}/{days}/{len(rows)}/{place + 1}"),
        )
        yield Order(event, {"profit": float(row["Profit"])}, at.replace(microsecond=0) + _SETTLED)


def _data(row: dict[str, str], place: int) -> dict[str, Any]:
    discount = float(row["Discount"])
    return {
        "discount": discount,
        "amount": round(float(row["Sales"]) / (1 - discount), 2),
        "segment": row["Segment"],
        "category": row["Category"],
        "region": row["Region"],
        "product": row["Sub-Category"],
        "quantity": int(row["Quantity"]),
        "order": str(place + 1),
    }


def _text() -> str:
    try:
        package = distribution(_PACKAGE)
    except PackageNotFoundError as error:
        hint = f"Install {_PACKAGE} as constraints.txt pins it."
        raise Unavailable("sample_missing", f"The package {_PACKAGE} is not installed.", hint=hint) from error
    # Its module would import pandas.
    path = package.locate_file(f"{_PACKAGE}/_data/{_FILE}")
    content = Path(str(path)).read_bytes()
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise CheckFailed("sample_changed", f"{_FILE} of {_PACKAGE} is not the file that is known here.")
    return gzip.decompress(content).decode("utf-8-sig")
