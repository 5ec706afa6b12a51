"""The knowledge products: documents → chunks → embeddings by source, then one search index over all of them.

Blocking checks on each product stand in `assets/knowledge_checks.py`.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from assets.automation import derived_data
from assets.failures import RETRY, permanent_failures
from resources.progress import ProgressResource
from resources.store import StoreResource
from stemma.knowledge import chunks as chunk_store
from stemma.knowledge import documents as document_store
from stemma.knowledge import embedding, generations, sources
from stemma.knowledge.chunking import chunker_for
from stemma.knowledge.golden import load_questions

KNOWLEDGE_SOURCES = dg.DynamicPartitionsDefinition(name="knowledge_sources")
_PREVIEW_ROWS = 8

_COMMON: dict[str, Any] = {
    "group_name": "knowledge",
    "owners": ["team:knowledge"],
    "retry_policy": RETRY,
}
