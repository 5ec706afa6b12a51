"""Receipts: every asset with its newest one, all of them in pages, and one asset's descent to its sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response

from api.access import allow
from api.console import graphs
from api.console.rendering import render
from api.deps import DatabaseDep, PageDep
from api.limits import limited
from stemma.access.principal import Principal
from stemma.errors import NotFound
from stemma.ledger.receipt_catalog import (
    TreeNode,
    list_partitions,
    list_receipts,
    newest_by_asset,
    read_receipt,
    read_tree,
)
from stemma.ledger.receipts import Receipt, ReceiptInput
from stemma.store.database import Connection

router = APIRouter(prefix="/receipts", route_class=limited("console"), include_in_schema=False)

_DEPTH: Final = 8
_MOST_BRANCHES: Final = 100
_PARTITIONS: Final = 50

ReaderDep = Annotated[Principal, allow("ledger:read")]


@router.get("")
def show(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    page: PageDep,
    run: Annotated[str | None, Query(max_length=100)] = None,
) -> Response:
    """Every asset with its newest receipt, and all receipts, the newest first, or those of one run."""
    with database.snapshot() as connection:
        assets = newest_by_asset(connection) if page.cursor is None and run is None else ()
        found = list_receipts(connection, run_id=run, cursor=page.cursor, limit=page.limit)
    return render(request, "pages/receipts.html", assets=assets, found=found, run=run)


@router.get("/{key:path}")
def show_descent(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    page: PageDep,
    key: Annotated[str, Path(max_length=500)],
    partition: Annotated[str | None, Query(max_length=500)] = None,
    receipt: Annotated[UUID | None, Query()] = None,
) -> Response:
    """What an asset was made from, by its newest receipt or the one that is asked for."""
    with database.snapshot() as connection:
        chosen = read_receipt(connection, receipt) if receipt else _newest(connection, key, partition)
        if chosen.asset != key:
            raise _none(key, None)
        tree = read_tree(connection, chosen.id, _DEPTH)
        partitions = list_partitions(connection, key, cursor=page.cursor, limit=_PARTITIONS)
        newest = list_receipts(connection, asset=key, partition=chosen.partition, limit=1).data[0]
    graph = _graph(tree)
    return render(
        request,
        "pages/receipt.html",
        receipt=chosen,
        newest=newest,
        tree=tree,
        most=_MOST_BRANCHES,
        partitions=partitions,
        graph=graph,
        drawing=graphs.draw(graph, title=f"What {chosen.subject} was made from, from above to below"),
    )


def _newest(connection: Connection, asset: str, partition: str | None) -> Receipt:
    found = list_receipts(connection, asset=asset, partition=partition, limit=1).data
    if not found:
        raise _none(asset, partition)
    return found[0]


def _none(asset: str, partition: str | None) -> NotFound:
    what = f"There is no receipt of {asset}" + (f" in the partition {partition}." if partition else ".")
    return NotFound("receipt_not_found", what, field="asset", hint="The page Receipts lists every asset that has one.")


def _graph(tree: TreeNode) -> graphs.Graph:
    """Assets instead of receipts: as many partitions as there are, each asset is drawn once."""
    subjects: dict[str, set[str]] = {}
    outside: dict[str, set[str]] = {}
    edges: dict[tuple[str, str], None] = {}
    for parent, at in _walk(None, tree):
        asset, subject = (at.receipt.asset, at.receipt.subject) if isinstance(at, TreeNode) else (at.asset, _name(at))
        subjects.setdefault(asset, set()).add(subject)
        if parent is not None and parent != asset:
            edges[asset, parent] = None
        if isinstance(at, TreeNode) and at.receipt.sources:
            outside.setdefault(asset, set()).update(source.name for source in at.receipt.sources)
    nodes = [
        graphs.Node(asset, asset, _note(names), href=f"/receipts/{asset}", strong=asset == tree.receipt.asset)
        for asset, names in subjects.items()
    ]
    for asset, names in outside.items():
        source = f"outside {asset}"
        label = next(iter(names)) if len(names) == 1 else f"{len(names)} files"
        nodes.append(graphs.Node(source, label, "from outside the studio", outside=True))
        edges[source, asset] = None
    return graphs.Graph(tuple(nodes), tuple(edges))


def _walk(parent: str | None, at: TreeNode | ReceiptInput) -> Iterator[tuple[str | None, TreeNode | ReceiptInput]]:
    yield parent, at
    if isinstance(at, TreeNode):
        for child in at.inputs:
            yield from _walk(at.receipt.asset, child)


def _name(at: ReceiptInput) -> str:
    return at.asset if at.partition is None else f"{at.asset}[{at.partition}]"


def _note(names: set[str]) -> str:
    (name, *more) = sorted(names)
    if more:
        return f"{len(names)} partitions"
    return f"partition {name.rpartition('[')[2].removesuffix(']')}" if name.endswith("]") else "not partitioned"
