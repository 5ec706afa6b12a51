"""Redaction: personal data and secrets are taken out of text before it is logged, recorded or remembered.

`redact` does it for text, `redact_value` for JSON-like values; every kind of finding is in `Kind`. What is recognised,
and what is not, is in docs/SECURITY.md. Deciding *what* is logged or stored stays where it happens: this is the net
below that.
"""

from stemma.redaction.engine import redact, redact_value
from stemma.redaction.model import Finding, Kind, Redacted
from stemma.redaction.names import is_secret_name

__all__ = ["Finding", "Kind", "Redacted", "is_secret_name", "redact", "redact_value"]
