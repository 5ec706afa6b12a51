"""Embedding one query at a time without torch: an int8 ONNX graph of the passage model, exported once.

The graph holds pooling and normalization, so onnxruntime and tokenizers are all that the API process loads. The
passages themselves are embedded by `embedding`.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stemma.errors import CheckFailed, Unavailable
from stemma.knowledge.embedding import Embedder, ModelSpec, Vectors, load_sentence_transformer
from stemma.store.settings import Settings

_GRAPH = "query.int8.onnx"
_TOKENIZER = "tokenizer.json"
_FACTS = "query.json"
_OUTPUT = "unit_vector"
_OPSET = 18
_REMEMBERED_QUERIES = 256
_LEAST_AGREEMENT = 0.9
_Stamp = tuple[int, int, int]
_opening = threading.Lock()
_PROBES = ("a short query", "How do I add an index to a column that holds vectors?", "create_index")


def query_encoder_folder(settings: Settings, model_key: str) -> Path:
    """Where the graph, tokenizer and facts of one model are kept."""
    return settings.home / "models" / model_key


def has_query_encoder(settings: Settings, model_key: str) -> bool:
    """Whether the query graph of this model is there and can be loaded."""
    try:
        open_query_encoder(settings, model_key)
    except Unavailable:
        return False
    return True


def export_query_encoder(settings: Settings, embedder: Embedder) -> Path:
    """Make the query graph of the embedder's model unless a sound one is there; takes seconds. Returns its folder.

    Raises CheckFailed when the graph does not answer as the model does: queries and passages must meet in one space.
    """
    folder = query_encoder_folder(settings, embedder.key)
    if has_query_encoder(settings, embedder.key):
        return folder
    building = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        inputs = _export_graph(embedder.spec, building)
        shutil.copyfile(embedder.spec.folder / "tokenizer.json", building / _TOKENIZER)
        facts = {"inputs": inputs, "max_tokens": embedder.spec.max_tokens, "dimensions": embedder.dimensions}
        (building / _FACTS).write_text(json.dumps(facts), "utf-8")
        _require_agreement(QueryEncoder(building), embedder)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def open_query_encoder(settings: Settings, model_key: str) -> QueryEncoder:
    """The exported graph of one model, one for all in a process; raises Unavailable when it is missing or damaged."""
    folder = query_encoder_folder(settings, model_key)
    with _opening:
        return _opened(folder, tuple(_stamp(folder / name) for name in (_GRAPH, _TOKENIZER, _FACTS)))


@lru_cache(maxsize=2)
def _opened(folder: Path, _: tuple[_Stamp | None, ...]) -> QueryEncoder:
    return QueryEncoder(folder)


def _stamp(path: Path) -> _Stamp | None:
    """What is another when the file was replaced or written to."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


class QueryEncoder:
    """Embeds queries with the exported graph. Thread-safe; loading it takes about a tenth of a second."""

    def __init__(self, folder: Path) -> None:
        """Raises Unavailable when the graph is missing or cannot be loaded: search never falls back silently."""
        try:
            facts = json.loads((folder / _FACTS).read_text("utf-8"))
            self.dimensions: int = facts["dimensions"]
            self._inputs: list[str] = facts["inputs"]
            self._tokenizer = _load_tokenizer(folder / _TOKENIZER, facts["max_tokens"])
            self._session = _load_session(folder / _GRAPH)
        except Exception as error:
            raise Unavailable(
                "query_encoder_unavailable",
                f"The query encoder in {folder} cannot be loaded: {error}.",
                hint="Run `stemma materialize knowledge/search_index`.",
            ) from error
        self._lock = threading.Lock()
        self._remembered: OrderedDict[str, Vectors] = OrderedDict()

    def encode(self, text: str) -> Vectors:
        """The query's vector of unit length, shape (dimensions,); what is over the model's limit is cut off."""
        with self._lock:
            known = self._remembered.get(text)
            if known is not None:
                self._remembered.move_to_end(text)
                return known
        encoding = self._tokenizer.encode(text)
        given = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        feed = {name: np.array([given[name]], np.int64) for name in self._inputs}
        vector: Vectors = self._session.run([_OUTPUT], feed)[0][0]
        vector.setflags(write=False)
        with self._lock:
            self._remembered[text] = vector
            if len(self._remembered) > _REMEMBERED_QUERIES:
                self._remembered.popitem(last=False)
        return vector


def _require_agreement(encoder: QueryEncoder, embedder: Embedder) -> None:
    vectors = embedder.encode(_PROBES)
    cosine = min(float(encoder.encode(text) @ vector) for text, vector in zip(_PROBES, vectors, strict=True))
    if cosine < _LEAST_AGREEMENT:
        raise CheckFailed(
            "query_encoder_disagrees",
            f"The query graph of {embedder.name} is at cosine {cosine:.3f} from the model's own vectors.",
            field="STEMMA_EMBEDDING_MODEL",
        )


def _load_tokenizer(path: Path, max_tokens: int) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return tokenizer


def _load_session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # One thread answers a short query as fast as two, and spinning threads would keep an idle server's core busy.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _export_graph(spec: ModelSpec, folder: Path) -> list[str]:
    """Write the quantized graph; returns the names of its inputs, each int64 of shape (batch, tokens)."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The fused attention kernels of torch have no ONNX counterpart.
    model = load_sentence_transformer(spec, attn_implementation="eager")
    example = model.tokenizer(["two example", "queries of unlike length"], padding=True, return_tensors="pt")
    inputs = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in example]

    class QueryGraph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            pooled = self.model(dict(zip(inputs, tensors, strict=True)))["sentence_embedding"]
            return torch.nn.functional.normalize(pooled, dim=-1)

    batch = torch.export.Dim("batch", min=1, max=64)
    length = torch.export.Dim("length", min=2, max=max(spec.max_tokens, 3))
    plain = folder / "query.onnx"
    with _quiet():
        torch.onnx.export(
            QueryGraph().eval(),
            tuple(example[name] for name in inputs),
            str(plain),
            input_names=inputs,
            output_names=[_OUTPUT],
            dynamo=True,
            dynamic_shapes=(tuple({0: batch, 1: length} for _ in inputs),),
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
        )
        quantize_dynamic(str(plain), str(folder / _GRAPH), weight_type=QuantType.QInt8, per_channel=True)
    plain.unlink()
    return inputs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice to its own developers out of the logs; its errors still raise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
