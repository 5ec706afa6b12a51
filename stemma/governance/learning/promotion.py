"""Making a variant the baseline: proposed by what the outcomes say, approved by a person, published as a new version.

What is approved is the exact policy that will be published, with its golden cases. Nothing is published without an
approval, and nothing where the policy changed since it was proposed.
"""

from __future__ import annotations

from stemma.governance.learning.assessment import Assessment, assess

__all__ = ["Assessment", "assess"]
