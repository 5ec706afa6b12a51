"""The text of an event by which similar ones are found, and its vector.

A vector is made by the query graph of the embedding model, once for each text: it is kept in the process, and beside
each decision in the database, where its text's hash finds it. Where the model's graph was not exported yet there are no
vectors, so that nothing is known of similar cases and more is put before a person.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from stemma.errors import StemmaError
from stemma.governance.nodes import Node
from stemma.knowledge.embedding import load_model
from stemma.knowledge.onnx_query import QueryEncoder, open_query_encoder, query_encoder_folder
from stemma.store.database import Connection
from stemma.store.settings import Settings

_KEPT: Final = 8_192
"""Vectors, of about 4 kB each."""
_MAX_TEXT: Final = 2_000
_KNOWN: Final = """
    SELECT sought, embedding::text FROM unnest(%s::bytea[]) AS sought CROSS JOIN LATERAL
        (SELECT embedding FROM decision_embeddings WHERE text_sha256 = sought AND model_key = %s LIMIT 1) AS known
"""


@dataclass(frozen=True, slots=True)
class Vector:
    """A text's vector of unit length, written as pgvector reads it."""

    model_key: str
    text_sha256: bytes
    literal: str


def text_of(node: Node, event_type: str, data: Mapping[str, Any]) -> str:
    """What the node looks at of an event of this type, a line for each member of its data that is there."""
    names = node.events[event_type].text
    lines = (f"{name.replace('_', ' ')}: {_written(data[name])}" for name in names if name in data)
    return "\n".join((event_type, *lines))[:_MAX_TEXT]


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


class Vectors:
    """The vectors of events' texts. Thread-safe; one per process is enough."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._encoder: QueryEncoder | None = None
        self._kept: OrderedDict[bytes, Vector] = OrderedDict()

    @cached_property
    def model_key(self) -> str:
        """What makes vectors comparable."""
        return load_model(self._settings).key

    def of(self, connection: Connection, texts: Sequence[str]) -> list[Vector | None]:
        """The texts' vectors; None for each where there is no encoder."""
        hashes = [hashlib.sha256(text.encode()).digest() for text in texts]
        found = {sha256: vector for sha256 in hashes if (vector := self._remembered(sha256))}
        missing = {sha256: text for sha256, text in zip(hashes, texts, strict=True) if sha256 not in found}
        if missing and (encoder := self._opened()) is not None:
            written = dict(connection.execute(_KNOWN, (list(missing), self.model_key)).fetchall())
            for sha256, text in missing.items():
                literal = written.get(sha256) or "[" + ",".join(map(str, encoder.encode(text).tolist())) + "]"
                found[sha256] = self._remember(Vector(self.model_key, sha256, literal))
        return [found.get(sha256) for sha256 in hashes]

    def _remembered(self, sha256: bytes) -> Vector | None:
        with self._lock:
            if known := self._kept.get(sha256):
                self._kept.move_to_end(sha256)
            return known

    def _remember(self, made: Vector) -> Vector:
        with self._lock:
            self._kept[made.text_sha256] = made
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return made

    def _opened(self) -> QueryEncoder | None:
        with self._lock:
            if self._encoder is None:
                try:
                    if query_encoder_folder(self._settings, self.model_key).is_dir():
                        self._encoder = open_query_encoder(self._settings, self.model_key)
                except StemmaError:
                    return None
            return self._encoder
