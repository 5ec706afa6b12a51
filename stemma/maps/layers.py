"""What a map layer is: a YAML file that says where its features come from, what they may say, and who owns them.

Descriptions only. `sources` reads what they name, `features` cleans it, `privacy` holds it to its rule.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stemma.errors import InvalidInput
from stemma.maps import denylist
from stemma.maps.grid import CIRCUMFERENCE, LEVELS, MAX_ZOOM
from stemma.maps.point_tiles import TILE_BYTES, PointLayer
from stemma.store.files import read_local

Kind = Literal["points", "lines", "polygons"]
SCHEMES = ("", "https", "http", "s3", "package")
Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Model):
    """Where features come from: a file, or a folder with a file for each month (`2020-01-….csv`).

    A path without a scheme is on this machine; `https:` and `http:` are fetched, `s3:` is read with the credentials of
    the studio, `package://name/…` is a file that an installed Python package brought along.
    """

    path: Name
    monthly: bool = False
    encoding: str = "utf-8"
    crs: str | None = None

    @property
    def scheme(self) -> str:
        """How the source is reached; empty for a path on this machine."""
        return self.path.partition("://")[0] if "://" in self.path else ""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.scheme not in SCHEMES:
            raise ValueError(f"a source is a path, or begins with {', '.join(f'{name}://' for name in SCHEMES[1:])}")
        if self.monthly and self.scheme in ("http", "https"):
            raise ValueError("a URL is one file; a folder of months is a path or s3://")
        return self


class Columns(_Model):
    """Which columns hold what. Coordinates are named for CSV; other formats have a geometry."""

    longitude: str | None = None
    latitude: str | None = None
    id: str | None = None


class Attribute(_Model):
    """An attribute that features keep: the column it comes from (its own name, unless said) and its type."""

    column: str | None = None
    type: Literal["text", "integer", "number", "boolean"] = "text"


class Privacy(_Model):
    """What is done to incidents before anybody sees them.

    Coordinates are snapped to the centres of cells at least `snap_metres` wide up to 60° of latitude; cells with fewer
    than `minimum_count` incidents are suppressed. `allow` names columns that sound personal and are not.
    """

    snap_metres: float = Field(default=50.0, ge=1, le=100_000)
    minimum_count: int = Field(default=3, ge=1)
    allow: tuple[str, ...] = ()

    @property
    def level(self) -> int:
        """The level of the quadtree whose cells are snapped to."""
        return min(LEVELS - 1, math.floor(math.log2(CIRCUMFERENCE / 2 / self.snap_metres)))


class Layer(_Model):
    """A layer. Points are incidents unless `incidents: false` says that they are nobody's business."""

    id: str = Field(pattern=r"^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$")
    title: Name
    kind: Kind
    source: Source
    columns: Columns = Columns()
    category: str | None = None
    time: str | None = None
    attributes: dict[str, Attribute] = {}
    bounds: tuple[float, float, float, float] | None = None
    incidents: bool | None = None
    privacy: Privacy = Privacy()
    licence: Name
    attribution: Name
    description: str = ""
    min_zoom: int = Field(default=0, ge=0, le=MAX_ZOOM)
    max_zoom: int = Field(default=14, ge=0, le=MAX_ZOOM)
    tile_bytes: int = Field(default=TILE_BYTES, ge=1000, le=TILE_BYTES)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for role, name in (("category", self.category), ("time", self.time)):
            if name is not None and name not in self.attributes:
                raise ValueError(f"{role} names {name}, which is not among the attributes")
        if self.min_zoom > self.max_zoom:
            raise ValueError("min_zoom is above max_zoom")
        if self.bounds and not (self.bounds[0] < self.bounds[2] and self.bounds[1] < self.bounds[3]):
            raise ValueError("bounds are west, south, east, north")
        if self.incidents and self.kind != "points":
            raise ValueError("only points can be incidents; lines and polygons are not snapped")
        return self

    @property
    def gate(self) -> Privacy | None:
        """The privacy rule that holds; None for what is no incident."""
        incidents = self.kind == "points" if self.incidents is None else self.incidents
        return self.privacy if incidents else None

    @property
    def sources(self) -> dict[str, str]:
        """The column of each attribute."""
        return {name: attribute.column or name for name, attribute in self.attributes.items()}

    @property
    def point_layer(self) -> PointLayer:
        """How the layer's points become tiles."""
        return PointLayer(self.id, self.category, self.time, self.min_zoom, self.max_zoom, self.tile_bytes)


def load_layer(path: Path) -> Layer:
    """Read a layer's YAML file.

    Raises NotFound, InvalidInput(layer_invalid) with the field, and InvalidInput(attribute_denied) where an incident
    layer asks for what is personal.
    """
    try:
        described = yaml.safe_load(read_local(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput("layer_invalid", f"{path.name} is not YAML: {' '.join(str(error).split())}.") from error
    return parse_layer(described, path.name)


def parse_layer(described: object, name: str = "The layer") -> Layer:
    """A layer from what a YAML or JSON document holds; raises as `load_layer` does."""
    try:
        layer = Layer.model_validate(described)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or None
        raise InvalidInput("layer_invalid", f"{name} is not a layer: {first['msg']}.", field=field) from error
    if layer.gate is not None:
        denylist.check_columns(layer.sources, layer.gate.allow)
    return layer
