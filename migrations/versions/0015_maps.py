"""Map layers, and the archives of tiles that were built of them."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE map_layers (
            id           text COLLATE "C" PRIMARY KEY,
            description  jsonb NOT NULL,
            folder       text,
            title        text NOT NULL,
            kind         text COLLATE "C" NOT NULL CHECK (kind IN ('points', 'lines', 'polygons')),
            visibility   text COLLATE "C" NOT NULL CHECK (visibility IN ('everyone', 'members')),
            updated_at   timestamptz NOT NULL,
            updated_by   text COLLATE "C" NOT NULL
        );
        COMMENT ON COLUMN map_layers.description IS 'What the layer''s YAML says';
        COMMENT ON COLUMN map_layers.folder IS 'What the path of a source on this machine is relative to';

        CREATE TABLE map_tiles (
            layer            text COLLATE "C" NOT NULL REFERENCES map_layers (id) ON DELETE CASCADE,
            version          bigint NOT NULL CHECK (version > 0),
            current          boolean NOT NULL,
            path             text NOT NULL,
            sha256           text COLLATE "C" NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
            size             bigint NOT NULL CHECK (size > 0),
            features_path    text NOT NULL,
            features_sha256  text COLLATE "C" NOT NULL CHECK (features_sha256 ~ '^[0-9a-f]{64}$'),
            made_of          text COLLATE "C" NOT NULL,
            bounds           double precision[] NOT NULL CHECK (cardinality(bounds) = 4),
            min_zoom         integer NOT NULL,
            max_zoom         integer NOT NULL CHECK (max_zoom >= min_zoom),
            vector_layers    jsonb NOT NULL,
            zooms            jsonb NOT NULL,
            ledger           jsonb NOT NULL,
            months           jsonb NOT NULL,
            run_id           text NOT NULL,
            built_at         timestamptz NOT NULL,
            PRIMARY KEY (layer, version)
        );
        CREATE UNIQUE INDEX map_tiles_current ON map_tiles (layer) WHERE current;
        COMMENT ON COLUMN map_tiles.current IS 'What is served; the one before it is kept to go back to';
        COMMENT ON COLUMN map_tiles.path IS 'Its key in the file store';
        COMMENT ON COLUMN map_tiles.made_of IS 'A fingerprint of its features, its layer and the encoder';
        COMMENT ON COLUMN map_tiles.bounds IS 'West, south, east, north';
        COMMENT ON COLUMN map_tiles.ledger IS 'Where every row of the source went; months: the same by month';
    """)


def downgrade() -> None:
    op.execute("DROP TABLE map_tiles, map_layers;")
