"""Publishing policies and finding them again, ready to be evaluated."""

from __future__ import annotations

from typing import Final

from stemma.access.principal import Principal
from stemma.governance.checking import check
from stemma.governance.evaluation import Applicable, applied
from stemma.ledger.change import Change
from stemma.registry import catalog, publishing
from stemma.registry.differences import Difference, differences
from stemma.registry.model import Kind, Published
from stemma.registry.references import parse_reference
from stemma.store.database import Connection

KIND: Final = Kind("policy", "policy_versions", "decide:publish")


def publish(connection: Connection, principal: Principal, policy_text: str, tests_text: str) -> Change[Published]:
    """Publish what two YAML texts say, a policy and its golden cases.

    Raises Forbidden; InvalidInput with the first thing that is wrong and its line; CheckFailed where a golden case
    fails; Conflict where the version has other content or does not exceed the newest of its major.
    """
    principal.require(KIND.permission)
    return publishing.publish(connection, principal, KIND, check(policy_text, tests_text).publishable())


def find(connection: Connection, reference: str) -> Published:
    """The version that `name`, `name@1`, `name@1.2`, `name@1.2.3` or `name@latest` refers to now.

    Raises InvalidInput for what is no reference, NotFound.
    """
    return catalog.find(connection, KIND, parse_reference(reference))


def load(connection: Connection, reference: str) -> Applicable:
    """The same, compiled."""
    return applied(find(connection, reference))


def diff(connection: Connection, before: str, after: str) -> tuple[Difference, ...]:
    """How what two references resolve to differs; raises InvalidInput, NotFound."""
    return differences(find(connection, before).content, find(connection, after).content)
