"""Documents, chunks, embeddings and index generations."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
        CREATE EXTENSION IF NOT EXISTS vector;

        CREATE TABLE knowledge_sources (
            name        text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
            kind        text NOT NULL CHECK (kind IN ('folder', 'files', 'installed')),
            locations   text[] NOT NULL DEFAULT '{}',
            removed     boolean NOT NULL DEFAULT false,
            created_at  timestamptz NOT NULL DEFAULT now()
        );
        COMMENT ON COLUMN knowledge_sources.removed IS 'No longer read; kept while its documents are cited';

        CREATE TABLE documents (
            id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            source          text NOT NULL REFERENCES knowledge_sources (name),
            uri             text NOT NULL,
            title           text NOT NULL,
            media_type      text NOT NULL,
            byte_size       bigint NOT NULL,
            content_sha256  bytea NOT NULL,
            converter       text NOT NULL,
            text            text NOT NULL,
            text_sha256     bytea NOT NULL,
            headings        jsonb NOT NULL,
            page_starts     integer[] NOT NULL,
            chunked_as      text,
            removed         boolean NOT NULL DEFAULT false,
            read_at         timestamptz NOT NULL DEFAULT now(),
            UNIQUE (source, uri)
        );
        COMMENT ON COLUMN documents.content_sha256 IS 'SHA-256 of the bytes as read';
        COMMENT ON COLUMN documents.headings IS '[{"start": offset, "level": 1-6, "title": text}], ascending by start';
        COMMENT ON COLUMN documents.page_starts IS 'Offset in characters of each page''s start; empty without pages';
        COMMENT ON COLUMN documents.chunked_as IS 'Version of the chunker that split this text; null until it has';
        COMMENT ON COLUMN documents.removed IS 'Gone from its source; kept while an index generation still cites it';

        CREATE TABLE document_quarantine (
            source          text NOT NULL REFERENCES knowledge_sources (name),
            uri             text NOT NULL,
            code            text NOT NULL,
            reason          text NOT NULL,
            byte_size       bigint,
            first_seen_at   timestamptz NOT NULL DEFAULT now(),
            last_seen_at    timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (source, uri)
        );

        CREATE TABLE chunks (
            id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            document_id      bigint NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
            ordinal          integer NOT NULL,
            start_offset     integer NOT NULL,
            end_offset       integer NOT NULL CHECK (end_offset > start_offset),
            text             text NOT NULL,
            context          text NOT NULL,
            heading_path     text[] NOT NULL,
            page_first       integer,
            page_last        integer,
            token_count      integer NOT NULL,
            embed_sha256     bytea NOT NULL,
            document_sha256  bytea NOT NULL,
            retired          boolean NOT NULL DEFAULT false
        );
        CREATE UNIQUE INDEX chunks_current ON chunks (document_id, ordinal) WHERE NOT retired;
        CREATE INDEX chunks_document ON chunks (document_id);
        CREATE INDEX chunks_embed_sha256 ON chunks (embed_sha256);
        COMMENT ON COLUMN chunks.context IS 'Title and headings: embedded in front of the text, not part of the span';
        COMMENT ON COLUMN chunks.embed_sha256 IS 'SHA-256 of context, newline, text: the key of the embedding cache';
        COMMENT ON COLUMN chunks.document_sha256 IS 'documents.text_sha256 of the version that the span quotes';
        COMMENT ON COLUMN chunks.retired IS 'Replaced or removed; kept while an index generation still serves it';

        CREATE TABLE embedding_models (
            model_key   text PRIMARY KEY,
            name        text NOT NULL,
            dimensions  integer NOT NULL CHECK (dimensions BETWEEN 1 AND 2000),
            spec        jsonb NOT NULL,
            created_at  timestamptz NOT NULL DEFAULT now()
        );

        CREATE TABLE embedding_cache (
            model_key    text NOT NULL REFERENCES embedding_models (model_key),
            text_sha256  bytea NOT NULL,
            embedding    vector NOT NULL,
            PRIMARY KEY (model_key, text_sha256)
        );
        COMMENT ON COLUMN embedding_cache.embedding IS 'Unit length; as many dimensions as the model has';

        CREATE TABLE index_generations (
            id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            model_key     text NOT NULL REFERENCES embedding_models (model_key),
            vector_table  text NOT NULL,
            lexical_dir   text NOT NULL,
            state         text NOT NULL CHECK (state IN ('building', 'ready', 'failed')),
            fingerprint   text NOT NULL,
            manifest      jsonb NOT NULL DEFAULT '{}',
            created_at    timestamptz NOT NULL DEFAULT now()
        );
        COMMENT ON COLUMN index_generations.fingerprint IS 'SHA-256 over model key, index format and the chunks served';

        CREATE TABLE active_generation (
            singleton      boolean PRIMARY KEY DEFAULT true CHECK (singleton),
            generation_id  bigint NOT NULL REFERENCES index_generations (id),
            previous_id    bigint REFERENCES index_generations (id),
            activated_at   timestamptz NOT NULL DEFAULT now()
        );
    """)


def downgrade() -> None:
    op.execute("""
        DROP TABLE active_generation, index_generations, embedding_cache, embedding_models,
            chunks, document_quarantine, documents, knowledge_sources;
    """)
