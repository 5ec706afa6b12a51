"""What published versions are made into, kept: a version never changes, so that it is read and checked once."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Final, TypeVar

from stemma.registry.model import Published

T = TypeVar("T")


_MOST: Final = 64


def kept(make: Callable[[Published], T]) -> Callable[[Published], T]:
    """`make`, whose last results are kept by reference and content; what it raises is not."""

    @lru_cache(maxsize=_MOST)
    def made(version: _Version) -> T:
        return make(version.published)

    @wraps(make)
    def found(published: Published) -> T:
        return made(_Version(published))

    return found


class _Version:
    """A published version as the key of a cache: its hash says that it is the same."""

    __slots__ = ("key", "published")

    def __init__(self, published: Published) -> None:
        self.published = published
        self.key = (published.reference, published.sha256)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Version) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)
