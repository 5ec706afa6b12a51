"""The vectors of memories' texts, made by the query graph of the embedding model in force.

Where that graph was not exported yet there are none, and nothing is found by nearness; the daily asset makes up for it.
"""

from __future__ import annotations

import threading
from functools import cached_property

from stemma.errors import StemmaError
from stemma.knowledge.embedding import Vectors, load_model
from stemma.knowledge.onnx_query import QueryEncoder, open_query_encoder, query_encoder_folder
from stemma.store.settings import Settings


class Encoder:
    """Encodes texts. Thread-safe; the graph is opened at first use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._graph: QueryEncoder | None = None

    @cached_property
    def model_key(self) -> str:
        """What makes vectors comparable."""
        return load_model(self._settings).key

    def encode(self, text: str) -> Vectors | None:
        """The text's vector of unit length; None where there is no graph."""
        graph = self._opened()
        return None if graph is None else graph.encode(text)

    def _opened(self) -> QueryEncoder | None:
        with self._lock:
            if self._graph is None and query_encoder_folder(self._settings, self.model_key).is_dir():
                try:
                    self._graph = open_query_encoder(self._settings, self.model_key)
                except StemmaError:
                    return None
            return self._graph
