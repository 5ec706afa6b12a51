"""What most commands open first: the settings, the database brought up to date, and Dagster's instance."""

from __future__ import annotations

from stemma.knowledge import sources
from stemma.store import migrations
from stemma.store.database import Database
from stemma.store.settings import Settings, load_settings


def open_studio() -> tuple[Settings, Database]:
    """Start the embedded server where needed, apply missing migrations, register the built-in sources."""
    settings = load_settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    database = Database.open(settings)
    migrations.upgrade(database.urls.owner)
    with database.transaction() as connection:
        sources.ensure_builtin(connection, settings)
    return settings, database
