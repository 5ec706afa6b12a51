"""Which attributes an incident layer does not keep: those whose names sound personal, and free text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from stemma.errors import InvalidInput
from stemma.redaction.names import words

DENIED = words(
    "address age aged ages birth birthday born comment comments description detail details disability dob email "
    "ethnic ethnicity firstname forename fullname gender lastname mail name names narrative nationality note notes "
    "offender person phone postcode race racial religion remark remarks sex sexuality story summary surname suspect "
    "telephone text title victim witness"
)

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_LONG_WORDS = 8
_DISTINCT_SHARE = 0.2


def sounds_personal(column: str) -> bool:
    """Whether a word of a column's name is on the denylist."""
    return any(word.lower() in DENIED for word in _WORDS.findall(column))


def check_columns(columns: Mapping[str, str], allow: Sequence[str]) -> None:
    """Refuse attributes (by name, with the column of each) that sound personal and are not allowed by name.

    Raises InvalidInput(attribute_denied).
    """
    for name, column in columns.items():
        if column not in allow and (sounds_personal(column) or sounds_personal(name)):
            raise InvalidInput(
                "attribute_denied",
                f"An incident layer does not keep the column {column}: it sounds personal.",
                field=f"attributes.{name}",
                hint="Leave it out, or name it under privacy.allow if it says nothing about a person.",
            )


def check_texts(name: str, values: Sequence[Any], rows: int) -> None:
    """Refuse an attribute that holds free text: long values, hardly one twice.

    Raises InvalidInput(attribute_denied).
    """
    texts = [value for value in values if isinstance(value, str)]
    words = sum(text.count(" ") + 1 for text in texts)
    if len(texts) > _DISTINCT_SHARE * rows and words > _LONG_WORDS * len(texts):
        raise InvalidInput(
            "attribute_denied",
            f"An incident layer does not keep {name}: it holds free text.",
            field=f"attributes.{name}",
            hint="Leave it out, or name its column under privacy.allow if it says nothing about a person.",
        )
