"""Index generations: building one from the current chunks, swapping it in, going back, clearing away the rest.

A vector table holds the rows of one or more generations of one model. A row is visible in generation g when
`added_in <= g < removed_in`, so a small change writes only what changed, and the generation before stays whole.
One row of `active_generation` says which generation answers; it is read in the query's own transaction. How a query
is answered is `search`'s business.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from stemma.access.principal import Principal
from stemma.errors import CheckFailed, Conflict, StemmaError, Unavailable
from stemma.knowledge.embedding import Embedder
from stemma.knowledge.lexical import LexicalIndex, build_lexical_index
from stemma.knowledge.onnx_query import export_query_encoder, has_query_encoder
from stemma.ledger.entries import NewEntry
from stemma.ledger.journal import audited, transition
from stemma.progress import Progress, ReportProgress
from stemma.store.database import Connection, Database
from stemma.store.outputs import Listing, folder_artifact, record
from stemma.store.settings import Settings

logger = logging.getLogger(__name__)

NEVER = 9223372036854775807
LEAST_RECALL = 0.95
RECALL_SAMPLE = 50
CANDIDATES = 100

# A change of a vector's or an index's form gets a new number; every generation is then built anew.
_INDEX_FORMAT = 1
_HNSW_M = 24
_HNSW_EF_CONSTRUCTION = 400
_GRAPH_BYTES_PER_ROW = 3000
_LEAST_BUILD_BYTES = 64 << 20
_LARGEST_INCREMENT = 0.25
_BUILD_LOCK = 0x5374656D496478
_PURGE_LOCK_TIMEOUT = "5s"
_ACTIVATIONS = UUID("8d5b0c1e-6a3f-4d57-9a53-0c5f6f2f1b7e")
_VECTOR_TABLE = re.compile(r"vectors_[0-9]+")
_STAGES = 6


@dataclass(frozen=True, slots=True)
class Generation:
    """One version of the search index. `sources` counts its chunks by source; bytes are those when it was built."""

    id: int
    state: str
    model_key: str
    model_name: str
    dimensions: int
    chunks: int
    sources: dict[str, int]
    recall: float | None
    bytes: dict[str, int]
    vector_table: str
    lexical_dir: str
    fingerprint: str
    created_at: datetime
    failure: str | None = None

    @property
    def table(self) -> sql.Identifier:
        """The vector table, safe to put into a statement."""
        return sql.Identifier(self.vector_table)

    @property
    def nearness(self) -> sql.Composed:
        """The distance to the parameter `vector` that the HNSW index orders by: half precision, half the memory.

        Callers take more candidates than they need and rank them by the exact `embedding <=> vector`.
        """
        return sql.SQL("embedding::halfvec({d}) <=> %(vector)b::halfvec({d})").format(d=sql.Literal(self.dimensions))

    @property
    def visible(self) -> sql.Composable:
        """The condition that a row of the vector table belongs to this generation."""
        return sql.SQL("(added_in <= {id} AND removed_in > {id})").format(id=sql.Literal(self.id))


@dataclass(frozen=True, slots=True)
class GenerationReport:
    """What `build_generation` or `rollback` left in force; `built` is False when nothing had to be done."""

    generation: int
    previous: int | None
    built: bool
    incremental: bool
    model_key: str
    model_name: str
    dimensions: int
    chunks: int
    added: int
    removed: int
    sources: dict[str, int]
    recall: float | None
    bytes: dict[str, int]
    fingerprint: str
    seconds: float
    purged: dict[str, int] = field(default_factory=dict)


Gate = Callable[[Connection, Generation], None]
"""A further condition on a generation that is built but not active; raises CheckFailed when it does not hold."""


def lexical_root(settings: Settings) -> Path:
    """The folder that holds one lexical index per generation."""
    return settings.home / "knowledge" / "lexical"


def active(connection: Connection) -> Generation | None:
    """The generation that answers in this transaction, or None before the first."""
    return _one(connection, "JOIN active_generation a ON a.generation_id = g.id")


def previous(connection: Connection) -> Generation | None:
    """The generation that `rollback` would bring back."""
    return _one(connection, "JOIN active_generation a ON a.previous_id = g.id")


def list_generations(connection: Connection) -> list[Generation]:
    """Every generation on record, the newest first."""
    return _select(connection, "ORDER BY g.id DESC")


def _one(connection: Connection, condition: str) -> Generation | None:
    return next(iter(_select(connection, condition)), None)


def _select(connection: Connection, condition: str) -> list[Generation]:
    rows = connection.execute(
        f"""
        SELECT g.id, g.state, g.model_key, m.name, m.dimensions, g.manifest, g.vector_table, g.lexical_dir,
            g.fingerprint, g.created_at
        FROM index_generations g JOIN embedding_models m ON m.model_key = g.model_key {condition}
        """
    ).fetchall()
    return [
        Generation(
            id=row[0],
            state=row[1],
            model_key=row[2],
            model_name=row[3],
            dimensions=row[4],
            chunks=row[5].get("chunks", 0),
            sources=row[5].get("sources", {}),
            recall=row[5].get("recall"),
            bytes=row[5].get("bytes", {}),
            vector_table=row[6],
            lexical_dir=row[7],
            fingerprint=row[8],
            created_at=row[9],
            failure=row[5].get("failure"),
        )
        for row in rows
    ]


def build_generation(
    database: Database,
    settings: Settings,
    embedder: Embedder,
    *,
    progress: ReportProgress | None = None,
    golden: Gate | None = None,
) -> GenerationReport:
    """Make search answer from the current chunks; where it does already, change nothing.

    Rows, HNSW, gates and the pointer commit in one transaction: whatever interrupts the build, search goes on
    answering from the last good generation and the next build starts from there. One build runs at a time.

    Raises CheckFailed when a current chunk has no embedding or a gate refuses the new generation, Unavailable when
    the disk is full.
    """
    started = time.monotonic()
    stages = _Stages(progress)
    with database.owner(autocommit=True) as connection, _one_builder(connection):
        _bury_unfinished(connection)
        current = active(connection)
        if current is not None and _is_served(connection, settings, current, embedder.key):
            purged = _purge(connection, settings)
            _record(connection, settings, current)
            return _report(connection, current, seconds=time.monotonic() - started, purged=purged)
        generation_id = _begin(connection, embedder)
        try:
            stages.next("query encoder")
            export_query_encoder(settings, embedder)
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                built = _Build(connection, settings, embedder, generation_id, stages).run(golden, started)
        except BaseException as error:
            with contextlib.suppress(psycopg.Error):
                _mark_failed(connection, generation_id, error)
            if _is_disk_full(error):
                raise Unavailable(
                    "disk_full",
                    "The disk is full; the index that was there before is still served.",
                    hint="Free some space, then materialize knowledge/search_index again.",
                ) from error
            raise
        stages.next("clearing away")
        purged = _purge(connection, settings)
        new = active(connection)
        assert new is not None
        _record(connection, settings, new)
        return _report(connection, new, built=built, seconds=time.monotonic() - started, purged=purged)


def _record(connection: Connection, settings: Settings, generation: Generation) -> None:
    listing = Listing()
    rows = connection.execute(
        sql.SQL("""
            SELECT chunk_id, encode(text_sha256, 'hex'), encode(sha256(vector_send(embedding)), 'hex')
            FROM {} WHERE {} ORDER BY chunk_id
        """).format(generation.table, generation.visible)
    )
    for row in rows:
        listing.add(*row)
    record(listing.artifact(f"vectors/{generation.id}"))
    record(folder_artifact(lexical_root(settings) / generation.lexical_dir, f"lexical/{generation.lexical_dir}"))


def rollback(database: Database) -> GenerationReport:
    """Serve the previous generation again, in one transaction; a second call comes back.

    Raises Conflict when no previous generation is kept.
    """
    started = time.monotonic()
    with database.owner(autocommit=True) as connection, _one_builder(connection):
        with connection.transaction():
            swapped = connection.execute("""
                UPDATE active_generation
                SET generation_id = previous_id, previous_id = generation_id, activated_at = now()
                WHERE previous_id IS NOT NULL
            """).rowcount
        if not swapped:
            raise Conflict(
                "no_previous_generation",
                "No previous index generation is kept.",
                hint="The previous one is kept after the index is built a second time.",
            )
        current = active(connection)
        assert current is not None
        return _report(connection, current, seconds=time.monotonic() - started)


def activated(report: GenerationReport, actor: str) -> NewEntry:
    """The Historian's entry of a generation that was built and serves: one for each, however often it is appended."""
    data = {"generation": report.generation, "model": report.model_name, "fingerprint": report.fingerprint}
    subject = f"index/{report.generation}"
    entry = transition("index.activated", subject=subject, actor=actor, data={**data, "chunks": report.chunks})
    return replace(entry, id=uuid5(_ACTIVATIONS, f"{report.generation}:{report.fingerprint}"))


def rolled_back(report: GenerationReport, principal: Principal) -> tuple[NewEntry, ...]:
    """The entries of a rollback that was done."""
    meta = {"generation": report.generation, "instead_of": report.previous}
    return audited(principal, "index.rolled_back", resource=f"index/{report.generation}", meta=meta, critical=True)


def hnsw_recall(
    connection: Connection, generation: Generation, *, sample: int = RECALL_SAMPLE, k: int = 10
) -> float | None:
    """Recall@k of the HNSW index against an exact scan, stored vectors being the queries; None for an empty index.

    A hit counts by its distance, so that equal vectors may stand in for one another. Call it in a transaction: it
    changes the planner's settings until its end.
    """
    queries = connection.execute(
        sql.SQL("SELECT embedding FROM {} WHERE {} ORDER BY hashint8(chunk_id), chunk_id LIMIT {}").format(
            generation.table, generation.visible, sql.Literal(sample)
        )
    ).fetchall()
    nearest = sql.SQL("""
        SELECT distance FROM (
            SELECT embedding <=> %(vector)b AS distance FROM {} WHERE {} ORDER BY {} LIMIT {}
        ) v ORDER BY distance LIMIT {}
    """).format(generation.table, generation.visible, generation.nearness, sql.Literal(CANDIDATES), sql.Literal(k))
    # OFFSET 0 keeps the filter apart from the order, so that there is no index to use.
    exact = sql.SQL("""
        SELECT embedding <=> %(vector)b AS distance FROM (SELECT embedding FROM {} WHERE {} OFFSET 0) v
        ORDER BY distance LIMIT {}
    """).format(generation.table, generation.visible, sql.Literal(k))
    connection.execute("SET LOCAL enable_seqscan = off")
    connection.execute("SET LOCAL enable_sort = off")
    found = wanted = 0
    for (query,) in queries:
        true = [row[0] for row in connection.execute(exact, {"vector": query}, prepare=False)]
        near = [row[0] for row in connection.execute(nearest, {"vector": query}, prepare=False)]
        found += sum(distance <= true[-1] + 1e-6 for distance in near)
        wanted += len(true)
    connection.execute("SET LOCAL enable_seqscan = on")
    connection.execute("SET LOCAL enable_sort = on")
    return found / wanted if wanted else None


CURRENT_CHUNKS = "chunks c JOIN documents d ON d.id = c.document_id WHERE NOT c.retired AND NOT d.removed"


def fingerprint(connection: Connection, model_key: str) -> str:
    """SHA-256, in hex, over the model, the index format and the current chunks."""
    row = connection.execute(
        f"""
        SELECT encode(sha256(convert_to(%s, 'UTF8') ||
            coalesce(string_agg(int8send(c.id) || c.embed_sha256, ''::bytea ORDER BY c.id), '')), 'hex')
        FROM {CURRENT_CHUNKS}
        """,
        (f"{model_key}:{_INDEX_FORMAT}:",),
    ).fetchone()
    assert row is not None
    return str(row[0])


class _Stages:
    """Tells which step a build has reached."""

    def __init__(self, progress: ReportProgress | None) -> None:
        self._progress = progress
        self._started = time.monotonic()
        self._done = 0

    def next(self, name: str) -> None:
        state = Progress(f"search index, {name}", "steps", self._done, _STAGES, time.monotonic() - self._started)
        self._done += 1
        logger.info("search index: %s", name)
        if self._progress is not None:
            self._progress(state)


@dataclass(frozen=True, slots=True)
class _Built:
    incremental: bool
    added: int
    removed: int


class _Build:
    """The steps of one build, all inside the caller's transaction."""

    def __init__(
        self, connection: Connection, settings: Settings, embedder: Embedder, generation_id: int, stages: _Stages
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._embedder = embedder
        self._id = generation_id
        self._stages = stages

    def run(self, golden: Gate | None, started: float) -> _Built:
        self._require_embeddings()
        self._stages.next("vectors")
        table = self._table_to_extend()
        built = self._extend(table) if table is not None else self._load()
        generation = self._generation(table or f"vectors_{self._id}")
        self._stages.next("words")
        lexical = self._index_words(generation)
        self._stages.next("checks")
        recall = self._require_sound(generation, lexical)
        if golden is not None:
            golden(self._connection, generation)
        self._stages.next("activation")
        self._activate(generation, built, recall, time.monotonic() - started)
        return built

    def _require_embeddings(self) -> None:
        missing = _count(
            self._connection,
            f"""
            SELECT count(*) FROM {CURRENT_CHUNKS} AND NOT EXISTS (
                SELECT FROM embedding_cache e WHERE e.model_key = %s AND e.text_sha256 = c.embed_sha256)
            """,
            (self._embedder.key,),
        )
        if missing:
            raise CheckFailed(
                "embeddings_missing",
                f"{missing:,} chunks have no embedding of the model {self._embedder.name}.",
                hint="Run `stemma materialize knowledge/embeddings` first.",
            )

    def _table_to_extend(self) -> str | None:
        """The active generation's vector table, when it can take the change; None when a new one is due."""
        current = active(self._connection)
        if current is None or current.model_key != self._embedder.key:
            return None
        table = sql.Identifier(current.vector_table)
        total = _count(self._connection, f"SELECT count(*) FROM {CURRENT_CHUNKS}")
        change = sum(_count(self._connection, query) for query in (_rows_to_remove(table), _chunks_to_add(table)))
        return current.vector_table if total > 0 and change <= _LARGEST_INCREMENT * total else None

    def _extend(self, name: str) -> _Built:
        table = sql.Identifier(name)
        removed = self._connection.execute(
            sql.SQL("UPDATE {table} SET removed_in = {id} WHERE ctid IN (SELECT v.ctid {rows})").format(
                table=table, id=sql.Literal(self._id), rows=_removable(table)
            )
        ).rowcount
        added = self._insert(table, sql.SQL("AND {}").format(_not_in(table)))
        return _Built(incremental=True, added=added, removed=removed)

    def _load(self) -> _Built:
        table = sql.Identifier(f"vectors_{self._id}")
        self._connection.execute(
            sql.SQL("""
                CREATE TABLE {table} (
                    chunk_id     bigint NOT NULL,
                    source       text NOT NULL,
                    text_sha256  bytea NOT NULL,
                    added_in     bigint NOT NULL,
                    removed_in   bigint NOT NULL DEFAULT {never},
                    embedding    vector({dimensions}) NOT NULL
                )
            """).format(table=table, never=sql.Literal(NEVER), dimensions=sql.Literal(self._embedder.dimensions))
        )
        self._connection.execute(
            sql.SQL("""
                DO $$ BEGIN
                    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'stemma_app' AND rolname <> current_user) THEN
                        GRANT SELECT ON {table} TO stemma_app;
                    END IF;
                END $$
            """).format(table=table)
        )
        added = self._insert(table, sql.SQL(""))
        self._stages.next("vector index")
        self._index_vectors(table, added)
        return _Built(incremental=False, added=added, removed=0)

    def _insert(self, table: sql.Identifier, condition: sql.Composable) -> int:
        return self._connection.execute(
            sql.SQL("""
                INSERT INTO {table} (chunk_id, source, text_sha256, added_in, embedding)
                SELECT c.id, d.source, c.embed_sha256, {id}, e.embedding
                FROM chunks c
                JOIN documents d ON d.id = c.document_id
                JOIN embedding_cache e ON e.model_key = {key} AND e.text_sha256 = c.embed_sha256
                WHERE NOT c.retired AND NOT d.removed {condition}
                ORDER BY c.id
            """).format(table=table, id=sql.Literal(self._id), key=sql.Literal(self._embedder.key), condition=condition)
        ).rowcount

    def _index_vectors(self, table: sql.Identifier, rows: int) -> None:
        self._connection.execute(sql.SQL("CREATE INDEX ON {} (chunk_id)").format(table))
        self._connection.execute(sql.SQL("CREATE INDEX ON {} (source)").format(table))
        create = sql.SQL(
            "CREATE INDEX ON {} USING hnsw ((embedding::halfvec({})) halfvec_cosine_ops)"
            " WITH (m = {}, ef_construction = {})"
        ).format(
            table, sql.Literal(self._embedder.dimensions), sql.Literal(_HNSW_M), sql.Literal(_HNSW_EF_CONSTRUCTION)
        )
        _set_local(self._connection, "maintenance_work_mem", self._build_memory(rows))
        _set_local(self._connection, "max_parallel_maintenance_workers", "1")
        try:
            with self._connection.transaction():
                self._connection.execute(create)
        except psycopg.errors.DiskFull as error:
            # A parallel build reserves its memory in /dev/shm, which containers keep small.
            logger.warning("building the vector index without a parallel worker: %s", error)
            _set_local(self._connection, "max_parallel_maintenance_workers", "0")
            self._connection.execute(create)
        self._connection.execute(sql.SQL("ANALYZE {}").format(table))

    def _build_memory(self, rows: int) -> str:
        """What the graph of so many rows needs and the settings allow; a parallel build reserves all of it."""
        needed = rows * (4 * self._embedder.dimensions + _GRAPH_BYTES_PER_ROW) + _LEAST_BUILD_BYTES
        allowed = _count(self._connection, "SELECT pg_size_bytes(%s)", (self._settings.index_build_memory,))
        return f"{min(needed, allowed) // 1024}kB"

    def _generation(self, vector_table: str) -> Generation:
        """What has been built so far, as readers will see it."""
        draft = Generation(
            id=self._id,
            state="building",
            model_key=self._embedder.key,
            model_name=self._embedder.name,
            dimensions=self._embedder.dimensions,
            chunks=0,
            sources={},
            recall=None,
            bytes={},
            vector_table=vector_table,
            lexical_dir=str(self._id),
            fingerprint=fingerprint(self._connection, self._embedder.key),
            created_at=datetime.now().astimezone(),
        )
        rows = self._connection.execute(
            sql.SQL("SELECT source, count(*) FROM {} WHERE {} GROUP BY source ORDER BY source").format(
                draft.table, draft.visible
            )
        ).fetchall()
        sources = dict(rows)
        return replace(draft, sources=sources, chunks=sum(sources.values()))

    def _index_words(self, generation: Generation) -> LexicalIndex:
        folder = lexical_root(self._settings) / generation.lexical_dir
        with self._connection.cursor("chunks_to_index") as cursor:
            cursor.itersize = 2000
            cursor.execute(
                sql.SQL("""
                    SELECT c.id, v.source, c.context || E'\\n' || c.text
                    FROM {} v JOIN chunks c ON c.id = v.chunk_id WHERE {} ORDER BY c.id
                """).format(generation.table, generation.visible)
            )
            build_lexical_index(folder, cursor)
        return LexicalIndex.open(folder)

    def _require_sound(self, generation: Generation, lexical: LexicalIndex) -> float | None:
        """The gates every generation passes; returns the recall of its HNSW index."""
        current = _count(self._connection, f"SELECT count(*) FROM {CURRENT_CHUNKS}")
        pairs = _count(
            self._connection,
            sql.SQL("""
                SELECT count(DISTINCT v.chunk_id) FROM {} v
                JOIN chunks c ON c.id = v.chunk_id AND c.embed_sha256 = v.text_sha256
                JOIN documents d ON d.id = c.document_id
                WHERE NOT c.retired AND NOT d.removed AND {}
            """).format(generation.table, generation.visible),
        )
        if not current == generation.chunks == pairs == len(lexical):
            raise CheckFailed(
                "index_incomplete",
                f"{current:,} chunks are current, but the index has {generation.chunks:,} vectors, of which {pairs:,} "
                f"belong to a current chunk, and {len(lexical):,} texts.",
            )
        recall = hnsw_recall(self._connection, generation)
        if recall is not None and recall < LEAST_RECALL:
            raise CheckFailed(
                "recall_too_low",
                f"The vector index finds {recall:.1%} of the true nearest neighbours, less than {LEAST_RECALL:.0%}.",
            )
        return recall

    def _activate(self, generation: Generation, built: _Built, recall: float | None, seconds: float) -> None:
        folder = lexical_root(self._settings) / generation.lexical_dir
        manifest = {
            "chunks": generation.chunks,
            "sources": generation.sources,
            "recall": recall,
            "incremental": built.incremental,
            "added": built.added,
            "removed": built.removed,
            "hnsw": {"m": _HNSW_M, "ef_construction": _HNSW_EF_CONSTRUCTION},
            "bytes": {
                "vectors": _count(self._connection, "SELECT pg_table_size(%s::regclass)", (generation.vector_table,)),
                "vector_indexes": _count(
                    self._connection, "SELECT pg_indexes_size(%s::regclass)", (generation.vector_table,)
                ),
                "lexical": sum(file.stat().st_size for file in folder.iterdir()),
            },
            "seconds": round(seconds, 3),
        }
        self._connection.execute(
            """
            UPDATE index_generations SET state = 'ready', vector_table = %s, fingerprint = %s, manifest = %s
            WHERE id = %s
            """,
            (generation.vector_table, generation.fingerprint, Jsonb(manifest), generation.id),
        )
        self._connection.execute(
            """
            INSERT INTO active_generation (generation_id) VALUES (%s)
            ON CONFLICT (singleton) DO UPDATE SET previous_id = active_generation.generation_id,
                generation_id = excluded.generation_id, activated_at = now()
            """,
            (generation.id,),
        )


def _not_in(table: sql.Identifier) -> sql.Composable:
    return sql.SQL("""NOT EXISTS (
        SELECT FROM {} v WHERE v.chunk_id = c.id AND v.text_sha256 = c.embed_sha256 AND v.removed_in = {}
    )""").format(table, sql.Literal(NEVER))


def _removable(table: sql.Identifier) -> sql.Composable:
    """Rows not yet marked as removed whose chunk is no longer current."""
    return sql.SQL("""
        FROM {} v WHERE v.removed_in = {} AND NOT EXISTS (
            SELECT FROM chunks c JOIN documents d ON d.id = c.document_id
            WHERE c.id = v.chunk_id AND c.embed_sha256 = v.text_sha256 AND NOT c.retired AND NOT d.removed)
    """).format(table, sql.Literal(NEVER))


def _rows_to_remove(table: sql.Identifier) -> sql.Composed:
    return sql.SQL("SELECT count(*) {}").format(_removable(table))


def _chunks_to_add(table: sql.Identifier) -> sql.Composed:
    return sql.SQL("SELECT count(*) FROM {} AND {}").format(sql.SQL(CURRENT_CHUNKS), _not_in(table))


def _count(connection: Connection, query: str | sql.SQL | sql.Composed, values: Sequence[Any] = ()) -> int:
    row = connection.execute(query, values or None).fetchone()
    assert row is not None
    return int(row[0])


def _set_local(connection: Connection, name: str, value: str) -> None:
    connection.execute("SELECT set_config(%s, %s, true)", (name, value))


@contextlib.contextmanager
def _one_builder(connection: Connection) -> Iterator[None]:
    """Hold the lock that building, rolling back and purging share; a killed process gives it up by itself."""
    connection.execute("SELECT pg_advisory_lock(%s)", (_BUILD_LOCK,))
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_BUILD_LOCK,))


def _bury_unfinished(connection: Connection) -> None:
    """What an interrupted process left as 'building' will never be finished: the lock says that nobody builds now."""
    connection.execute(
        """
        UPDATE index_generations SET state = 'failed', manifest = manifest || '{"failure": "interrupted"}'
        WHERE state = 'building'
        """
    )


def _is_served(connection: Connection, settings: Settings, current: Generation, model_key: str) -> bool:
    """Whether the generation holds the current chunks under this model, and its files can be opened."""
    if current.fingerprint != fingerprint(connection, model_key):
        return False
    try:
        lexical = LexicalIndex.open(lexical_root(settings) / current.lexical_dir)
    except Unavailable:
        return False
    return len(lexical) == current.chunks and has_query_encoder(settings, model_key)


def _begin(connection: Connection, embedder: Embedder) -> int:
    known = connection.execute("SELECT FROM embedding_models WHERE model_key = %s", (embedder.key,)).fetchone()
    if known is None:
        raise CheckFailed(
            "embeddings_missing",
            f"Nothing has been embedded with the model {embedder.name} yet.",
            hint="Run `stemma materialize knowledge/embeddings` first.",
        )
    return _count(
        connection,
        """
        WITH next AS (SELECT nextval(pg_get_serial_sequence('index_generations', 'id')) AS id)
        INSERT INTO index_generations (id, model_key, vector_table, lexical_dir, state, fingerprint)
        OVERRIDING SYSTEM VALUE SELECT id, %s, 'vectors_' || id, id::text, 'building', '' FROM next RETURNING id
        """,
        (embedder.key,),
    )


def _mark_failed(connection: Connection, generation_id: int, error: BaseException) -> None:
    reason = str(error) or type(error).__name__
    connection.execute(
        "UPDATE index_generations SET state = 'failed', manifest = %s WHERE id = %s",
        (Jsonb({"failure": reason[:2000].replace("\0", "")}), generation_id),
    )


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, StemmaError):
        return False
    full = isinstance(error, psycopg.errors.DiskFull) or getattr(error, "errno", None) == errno.ENOSPC
    # tantivy reports the operating system's error as text.
    return full or (isinstance(error, ValueError) and "No space left on device" in str(error))


def _report(
    connection: Connection,
    generation: Generation,
    *,
    built: _Built | None = None,
    seconds: float,
    purged: dict[str, int] | None = None,
) -> GenerationReport:
    before = previous(connection)
    return GenerationReport(
        generation=generation.id,
        previous=before.id if before else None,
        built=built is not None,
        incremental=built is not None and built.incremental,
        model_key=generation.model_key,
        model_name=generation.model_name,
        dimensions=generation.dimensions,
        chunks=generation.chunks,
        added=built.added if built else 0,
        removed=built.removed if built else 0,
        sources=generation.sources,
        recall=generation.recall,
        bytes=generation.bytes,
        fingerprint=generation.fingerprint,
        seconds=seconds,
        purged=purged or {},
    )


def _purge(connection: Connection, settings: Settings) -> dict[str, int]:
    """Remove what neither the active nor the previous generation needs; returns how much, by kind.

    Rows go first and files last, so that an interruption leaves at worst files that nothing refers to. A table that
    a reader still holds is left for the next time.
    """
    kept = [generation for generation in (active(connection), previous(connection)) if generation is not None]
    assert kept
    purged = {"vectors": 0, "tables": 0}
    for name in _vector_tables(connection):
        users = [generation for generation in kept if generation.vector_table == name]
        if users:
            purged["vectors"] += _delete_unseen(connection, users)
        else:
            purged["tables"] += _drop(connection, name)
    with connection.transaction():
        purged["generations"] = connection.execute(
            "DELETE FROM index_generations WHERE state <> 'building' AND NOT id = ANY(%s)"
            " AND id < (SELECT max(generation_id) FROM active_generation)",
            ([generation.id for generation in kept],),
        ).rowcount
        served = sql.SQL(" OR ").join(
            sql.SQL("EXISTS (SELECT FROM {} v WHERE v.chunk_id = c.id)").format(sql.Identifier(name))
            for name in sorted({generation.vector_table for generation in kept})
        )
        purged["chunks"] = connection.execute(
            sql.SQL("DELETE FROM chunks c WHERE c.retired AND NOT ({})").format(served)
        ).rowcount
        purged["documents"] = connection.execute(
            sql.SQL("""
                DELETE FROM documents d WHERE d.removed
                AND NOT EXISTS (SELECT FROM chunks c WHERE c.document_id = d.id AND ({}))
            """).format(served)
        ).rowcount
        purged["embeddings"] = _delete_unused_embeddings(connection)
    _delete_folders(lexical_root(settings), keep={generation.lexical_dir for generation in kept})
    _delete_folders(settings.home / "models", keep={generation.model_key for generation in kept})
    return purged


def _vector_tables(connection: Connection) -> list[str]:
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        " AND relname LIKE 'vectors\\_%%' ORDER BY relname"
    )
    return [name for (name,) in rows if _VECTOR_TABLE.fullmatch(name)]


def _delete_unseen(connection: Connection, users: list[Generation]) -> int:
    seen = sql.SQL(" OR ").join(generation.visible for generation in users)
    return connection.execute(sql.SQL("DELETE FROM {} WHERE NOT ({})").format(users[0].table, seen)).rowcount


def _drop(connection: Connection, name: str) -> int:
    try:
        with connection.transaction():
            _set_local(connection, "lock_timeout", _PURGE_LOCK_TIMEOUT)
            connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
    except psycopg.errors.LockNotAvailable:
        logger.info("%s is still being read; the next build drops it", name)
        return 0
    return 1


def _delete_unused_embeddings(connection: Connection) -> int:
    """Vectors of texts that are gone, and of models that no generation needs and nobody has begun to fill since."""
    unused = connection.execute("""
        SELECT m.model_key FROM embedding_models m
        WHERE NOT EXISTS (SELECT FROM index_generations g WHERE g.model_key = m.model_key)
          AND m.created_at < (SELECT g.created_at FROM index_generations g
                              JOIN active_generation a ON a.generation_id = g.id)
    """).fetchall()
    keys = [key for (key,) in unused]
    deleted = connection.execute(
        """
        DELETE FROM embedding_cache e
        WHERE e.model_key = ANY(%s) OR NOT EXISTS (SELECT FROM chunks c WHERE c.embed_sha256 = e.text_sha256)
        """,
        (keys,),
    ).rowcount
    connection.execute("DELETE FROM embedding_models WHERE model_key = ANY(%s)", (keys,))
    return deleted


def _delete_folders(root: Path, *, keep: set[str]) -> None:
    if root.is_dir():
        for folder in root.iterdir():
            if folder.is_dir() and folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)
