"""The next version of a policy, in which a variant is the baseline.

The former baseline stays as a variant of its own, and each golden case goes on with the parameters that it was written
for: so all of them hold, and the outcomes go on to compare both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stemma.errors import InvalidInput
from stemma.governance.policy import BASELINE
from stemma.registry.model import Published
from stemma.registry.semver import Version

_REST = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Successor:
    """A policy and its golden cases as they would be written, as YAML texts that are JSON, too."""

    policy: str
    tests: str

    @property
    def canonical(self) -> bytes:
        """Both in one document, whose bytes a person approves."""
        return json.dumps({"policy": self.policy, "tests": self.tests}, ensure_ascii=False).encode()

    @classmethod
    def of_canonical(cls, data: bytes) -> Successor:
        """What was approved."""
        document = json.loads(data)
        return cls(document["policy"], document["tests"])


def former_name(version: str) -> str:
    """What the baseline of a version is called once it is a variant."""
    return f"before-{_REST.sub('-', version.lower())}"


def successor(published: Published, variant: str, *, version: Version, changelog: str) -> Successor:
    """The policy with `variant` as its baseline; raises InvalidInput for a variant that it does not have."""
    policy = published.content["policy"]
    variants: Mapping[str, Any] = policy.get("variants", {})
    if variant not in variants:
        what = f"{published.reference} has no variant {variant[:63]!r}."
        raise InvalidInput("variant_unknown", what, field="variant")
    before: Mapping[str, Any] = policy.get("parameters", {})
    now = {**before, **variants[variant]["parameters"]}
    former = former_name(published.version)
    others = {name: said for name, said in variants.items() if name != variant}
    others[former] = {"description": f"The baseline of {published.version}.", "parameters": {}}
    kept = {}
    for name, said in others.items():
        full = {**before, **said["parameters"]}
        differing = {parameter: value for parameter, value in full.items() if value != now[parameter]}
        if differing:
            kept[name] = {**said, "parameters": differing}
    written = {
        "name": published.name,
        "version": str(version),
        "changelog": changelog,
        **{name: value for name, value in policy.items() if name not in ("parameters", "variants")},
        "parameters": now,
        **({"variants": kept} if kept else {}),
    }
    cases = [_moved(case, former, kept) for case in published.content["tests"]]
    return Successor(_text(written), _text({"cases": cases}))


def _moved(case: Mapping[str, Any], former: str, kept: Mapping[str, Any]) -> dict[str, Any]:
    """A golden case with the name that its parameters have now; those of no variant are the baseline's."""
    name = case.get("variant", BASELINE)
    now = former if name == BASELINE else name
    rest = {part: value for part, value in case.items() if part != "variant"}
    return {**rest, "variant": now} if now in kept else rest


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2)
