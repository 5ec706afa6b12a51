from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.errors import Conflict, Forbidden, NotFound
from stemma.maps import catalog
from stemma.maps.layers import parse_layer
from stemma.maps.registration import register
from stemma.store.database import Database

SAID = {
    "id": "trees",
    "title": "Trees",
    "kind": "points",
    "source": {"path": "trees.csv"},
    "columns": {"longitude": "lon", "latitude": "lat"},
    "attributes": {"species": {"type": "text"}, "height": {"column": "h", "type": "number"}},
    "category": "species",
    "incidents": False,
    "bounds": [-1, 50, 1, 52],
    "licence": "CC0-1.0",
    "attribution": "© somebody",
}
TREES = parse_layer(SAID)


def test_a_layer_is_read_as_it_was_registered(add_layer, database: Database, tmp_path: Path) -> None:
    added = add_layer(TREES, folder=tmp_path, visibility="members")
    with database.snapshot() as connection:
        assert catalog.find_layer(connection, "trees") == added
        assert catalog.list_layers(connection) == (added,)
        with pytest.raises(NotFound) as unbuilt:
            catalog.current_archive(connection, "trees")
        with pytest.raises(NotFound) as unknown:
            catalog.current_archive(connection, "bushes")
        (entry,) = connection.execute("SELECT subject FROM ledger WHERE kind = 'map.registered' AND chain = 'audit'")
    assert added.layer == TREES
    assert (unbuilt.value.code, unknown.value.code) == ("layer_not_built", "layer_unknown")
    assert entry == ("map/trees",)


def test_a_layer_is_described_anew_but_keeps_its_kind(add_layer, database: Database) -> None:
    add_layer(TREES)
    add_layer(TREES.model_copy(update={"title": "All trees"}))
    with pytest.raises(Conflict) as refused:
        add_layer(parse_layer({**SAID, "kind": "polygons"}))
    with database.snapshot() as connection:
        assert catalog.find_layer(connection, "trees").layer.title == "All trees"
    assert refused.value.code == "layer_exists"


def test_only_members_see_a_layer_of_theirs(add_layer) -> None:
    everyone, members = add_layer(TREES), add_layer(TREES, visibility="members")
    viewer, reviewer = (Principal("key:a", role, frozenset({"map:*"})) for role in (Role.VIEWER, Role.REVIEWER))
    elsewhere = dataclasses.replace(reviewer, scopes=frozenset({"jobs:*"}))
    assert [everyone.is_visible_to(who) for who in (viewer, reviewer, elsewhere)] == [True, True, False]
    assert [members.is_visible_to(who) for who in (viewer, reviewer, elsewhere)] == [False, True, False]


def test_who_may_not_write_maps_registers_nothing(database: Database) -> None:
    viewer = Principal("key:a", Role.VIEWER, frozenset({"map:*"}))
    with database.snapshot() as connection, pytest.raises(Forbidden):
        register(connection, viewer, TREES)
