"""`stemma receipt`: what was made from what, to look at here and to verify elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import Json, moment, out, plain, print_json, printable, say
from stemma.store.settings import load_settings

if TYPE_CHECKING:
    from rich.tree import Tree

    from stemma.ledger.receipt_catalog import TreeNode
    from stemma.ledger.receipts import Receipt
    from stemma.store.database import Database
    from stemma.store.outputs import Artifact

app = typer.Typer(help="Receipts: what was made, from what, and that it is so.", no_args_is_help=True)

Key = Annotated[str, typer.Argument(help="An asset such as knowledge/chunks, or a receipt's id.")]
Partition = Annotated[str | None, typer.Option("--partition", "-p", help="Which partition, for example a source.")]

_SHORT = 12


@app.command()
def show(
    key: Key,
    partition: Partition = None,
    depth: Annotated[int, typer.Option(min=0, max=32, help="How many levels of inputs to follow.")] = 32,
    as_json: Json = False,
) -> None:
    """Print the newest receipt of an asset with those of its inputs, back to the sources."""
    from stemma.ledger.receipt_catalog import read_tree

    with _open() as database:
        receipt = _find(database, key, partition)
        tree = database.read(lambda connection: read_tree(connection, receipt.id, depth))
    if as_json:
        print_json(tree)
    else:
        out.print(_drawn(tree))


@app.command()
def export(
    key: Key,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Write the newest receipt of an asset as an in-toto statement that verifies without this studio."""
    from stemma.ledger.attestation import attest
    from stemma.ledger.signer import sign_once

    settings = load_settings()
    with _open() as database:
        receipt = _find(database, key, partition)
        sign_once(database.urls.app, settings)
        data = attest(database, settings, receipt.id)
    output = output.expanduser().resolve()
    _write(output, data)
    if as_json:
        print_json({"receipt": receipt.id, "file": output, "size": len(data)})
    else:
        say(f"{output}: receipt {receipt.id} of {receipt.subject}, {len(data):,} bytes.")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="What `stemma receipt export` wrote.")],
    key: Annotated[Path, typer.Option(help="The studio's public keys, as `stemma keys public` prints them.")],
    as_json: Json = False,
) -> None:
    """Verify an exported receipt with public keys alone: no database, no network, no STEMMA_HOME."""
    from stemma.ledger.attestation import verify_attestation
    from stemma.ledger.keys import read_public_keys
    from stemma.store.files import read_local

    verified = verify_attestation(read_local(file), read_public_keys(read_local(key)))
    if as_json:
        print_json({"verified": True, **plain(verified)})
        return
    receipt = verified.receipt
    say(f"{receipt.subject} was made by run {receipt.run_id} at {moment(receipt.materialized_at)}.")
    for artifact in receipt.artifacts:
        say(f"  {artifact.sha256}  {artifact.name}")
    say(
        f"Signed by key {verified.key_id}; entry {receipt.seq:,} of the ledger's receipts under the head of "
        f"{moment(verified.head_at)}."
    )


def _write(path: Path, data: bytes) -> None:
    """The file appears whole or not at all; raises Unavailable."""
    from stemma.store.files import storage_error

    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise storage_error(error) from error


def _open() -> Database:
    from cli.session import open_studio

    return open_studio()[1]


def _find(database: Database, key: str, partition: str | None) -> Receipt:
    from uuid import UUID

    from stemma.ledger.receipt_catalog import newest_receipt, read_receipt

    try:
        receipt = UUID(key)
    except ValueError:
        return database.read(lambda connection: newest_receipt(connection, key, partition))
    return database.read(lambda connection: read_receipt(connection, receipt))


def _drawn(node: TreeNode) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(_title(node.receipt), style="bold"))
    _branch(tree, node)
    return tree


def _branch(tree: Tree, node: TreeNode) -> None:
    from rich.text import Text

    from stemma.ledger.receipt_catalog import TreeNode
    from stemma.ledger.receipts import subject

    receipt = node.receipt
    tree.add(Text(f"receipt {receipt.id}", style="dim"))
    tree.add(
        Text(printable(f"data {receipt.data_version[:_SHORT]}, {_code(receipt)}, for {receipt.actor}"), style="dim")
    )
    for artifact in receipt.artifacts:
        tree.add(Text(f"made {_content(artifact)}", style="dim"))
    for source in receipt.sources:
        tree.add(Text(f"read {_content(source)}"))
    for made_from in node.inputs:
        if isinstance(made_from, TreeNode):
            _branch(tree.add(Text(_title(made_from.receipt), style="bold")), made_from)
        else:
            tree.add(Text(printable(f"{subject(made_from.asset, made_from.partition)}: no receipt")))
    if node.cut:
        tree.add("…")


def _title(receipt: Receipt) -> str:
    return printable(f"{receipt.subject}  {moment(receipt.materialized_at)}")


def _code(receipt: Receipt) -> str:
    commit, dash, dirty = (receipt.commit or "").partition("-")
    return f"code {receipt.code_version}" + (f" at {commit[:_SHORT]}{dash}{dirty}" if commit else "")


def _content(artifact: Artifact) -> str:
    return printable(f"{artifact.name}  {artifact.size:,} bytes  sha256:{artifact.sha256[:_SHORT]}…")
