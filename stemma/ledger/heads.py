"""Signed heads: what all chains were at one moment, signed, and where heads are kept.

A head file is JSON: `head` (the signed part), `signature`, and `frontiers`, the subtree roots from which signing goes
on and which have to give the signed roots. Heads go to a second store under keys that sort by time. When to sign is
the signer's business.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from stemma.errors import CheckFailed, InvalidInput, NotFound, Unavailable
from stemma.ledger.entries import canonical, format_time
from stemma.ledger.keys import PublicKey, SigningKey
from stemma.ledger.merkle import Frontier
from stemma.store.files import FileStore, storage_error
from stemma.store.settings import Settings

_VERSION = 1
_MAX_HEAD_BYTES = 16 << 20
_KEY = re.compile(r"\d{4}/\d\d/\d\d/\d{6}\.\d{6}-[0-9a-f]{16}\.json")


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The RFC 6962 tree of one chain's entry hashes: how many, and its root."""

    chain: str
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """All chains at `time`, sorted by name."""

    time: datetime
    key_id: str
    chains: tuple[ChainHead, ...]

    def of(self, chain: str) -> ChainHead | None:
        """This head's word on one chain."""
        return next((tree for tree in self.chains if tree.chain == chain), None)

    @property
    def signed_bytes(self) -> bytes:
        """The canonical JSON that the signature covers."""
        return canonical(self._document())

    def _document(self) -> dict[str, Any]:
        return {
            "chains": [{"chain": t.chain, "root": t.root.hex(), "size": t.size} for t in self.chains],
            "key_id": self.key_id,
            "time": format_time(self.time),
            "version": _VERSION,
        }


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head, its signature, and the state from which the next one is computed."""

    head: Head
    signature: bytes
    frontiers: Mapping[str, Frontier]

    @property
    def key(self) -> str:
        """The key of its file: one per head, never written twice."""
        return f"{self.head.time:%Y/%m/%d/%H%M%S.%f}-{self.head.key_id}.json"

    def is_by(self, keys: Mapping[str, PublicKey]) -> bool:
        """Whether one of these keys signed exactly this head."""
        key = keys.get(self.head.key_id)
        return key is not None and key.verifies(self.signature, self.head.signed_bytes)

    def to_bytes(self) -> bytes:
        """The head's file."""
        document = {
            "head": self.head._document(),
            "signature": base64.b64encode(self.signature).decode(),
            "frontiers": {name: [node.hex() for node in f.nodes] for name, f in self.frontiers.items()},
        }
        return json.dumps(document, indent=1).encode() + b"\n"


def sign_head(time: datetime, frontiers: Mapping[str, Frontier], key: SigningKey) -> SignedHead:
    """Sign the present state of every chain."""
    trees = tuple(ChainHead(name, frontiers[name].size, frontiers[name].root()) for name in sorted(frontiers))
    head = Head(time, key.key_id, trees)
    copies = {name: Frontier(f.size, list(f.nodes)) for name, f in frontiers.items()}
    return SignedHead(head, key.sign(head.signed_bytes), copies)


def parse_head(data: bytes) -> SignedHead:
    """Read a head's file, without believing it; raises InvalidInput with code `head_unreadable`."""
    try:
        if len(data) > _MAX_HEAD_BYTES:
            raise ValueError("too large")
        document = json.loads(data)
        said = document["head"]
        if said["version"] != _VERSION:
            raise ValueError("of another version")
        trees = tuple(ChainHead(str(t["chain"]), _size(t["size"]), bytes.fromhex(t["root"])) for t in said["chains"])
        time = datetime.fromisoformat(said["time"])
        if time.tzinfo is None:
            raise ValueError("without a time zone")
        frontiers = {}
        for tree in trees:
            nodes = [bytes.fromhex(node) for node in document["frontiers"].get(tree.chain, [])]
            frontiers[tree.chain] = Frontier(tree.size, nodes)
        signature = base64.b64decode(document["signature"], validate=True)
        return SignedHead(Head(time, str(said["key_id"]), trees), signature, frontiers)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, binascii.Error) as error:
        raise InvalidInput(
            "head_unreadable",
            "This is no signed head of a ledger.",
            hint="Name a file that the signer wrote to the store of heads.",
        ) from error


def _size(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**63:
        raise ValueError("not a size")
    return value


def resumable(signed: SignedHead) -> dict[str, Frontier]:
    """The trees from which signing goes on; raises CheckFailed unless they give the roots that were signed."""
    for tree in signed.head.chains:
        frontier = signed.frontiers[tree.chain]
        if not frontier.is_sound() or frontier.root() != tree.root:
            raise CheckFailed(
                "head_forged",
                f"The subtrees in head {signed.key} do not give the root that was signed for {tree.chain}.",
                hint="Run `stemma verify`.",
            )
    return {name: Frontier(f.size, list(f.nodes)) for name, f in signed.frontiers.items()}


def second_store(settings: Settings) -> FileStore:
    """The store that backups leave out and restores leave alone: heads are kept there, and what was erased."""
    return FileStore(settings.ledger_heads_url or settings.home / "ledger-heads")


class HeadStore:
    """The heads in the second store."""

    def __init__(self, settings: Settings) -> None:
        self._files = second_store(settings)

    def write(self, signed: SignedHead) -> None:
        """Keep a head; raises Unavailable where the store has no room or does not answer."""
        try:
            self._files.write(signed.key, signed.to_bytes())
        except OSError as error:
            raise storage_error(error) from error

    def keys(self) -> list[str]:
        """The keys of all heads, oldest first; other files of the store are left alone."""
        try:
            return [file.key for file in self._files.list() if _KEY.fullmatch(file.key)]
        except OSError as error:
            raise storage_error(error) from error

    def read(self, key: str) -> SignedHead:
        """One head, not yet believed; raises NotFound, and InvalidInput for a file that is none."""
        try:
            return parse_head(self._files.read(key))
        except OSError as error:
            raise storage_error(error) from error

    def newest(self) -> SignedHead | None:
        """The last head that was written, not yet believed."""
        while keys := self.keys():
            try:
                return self.read(keys[-1])
            except NotFound:
                # Superseded meanwhile: there is a newer one.
                continue
        return None

    def read_all(self) -> Iterator[tuple[str, SignedHead | InvalidInput]]:
        """Every head, oldest first, or why it cannot be read."""
        for key in self.keys():
            try:
                yield key, self.read(key)
            except InvalidInput as error:
                yield key, error
            except NotFound:
                # The signer took a superseded head away meanwhile.
                continue

    def believed(self, keys: Mapping[str, PublicKey]) -> SignedHead | None:
        """The last head that was written; raises CheckFailed unless one of these keys signed it."""
        newest = self.newest()
        if newest is not None and not newest.is_by(keys):
            raise CheckFailed(
                "head_forged",
                f"The newest head {newest.key} was not signed by a key of this ledger.",
                hint="Run `stemma verify`; move a head that does not belong there out of the store.",
            )
        return newest

    def supersede(self, key: str) -> None:
        """Take away a head whose successor within the same hour is kept; a store that refuses just keeps both."""
        try:
            self._files.delete(key)
        except (OSError, Unavailable):
            return


def read_head_file(path: Path) -> SignedHead:
    """A head that someone kept; raises NotFound, Unavailable and InvalidInput."""
    try:
        return parse_head(path.expanduser().read_bytes())
    except FileNotFoundError as error:
        raise NotFound("head_missing", f"There is no file {path}.", field="--head") from error
    except OSError as error:
        raise storage_error(error) from error
