"""Publishing policies and finding them again, ready to be evaluated, or as YAML to be written on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from stemma.access.principal import Principal
from stemma.errors import NotFound
from stemma.governance import golden, yaml_text
from stemma.governance.checking import check
from stemma.governance.evaluation import Applicable, applied
from stemma.governance.policy import Policy
from stemma.ledger.change import Change
from stemma.registry import catalog, publishing
from stemma.registry.differences import Difference, differences
from stemma.registry.model import Draft, Kind, Published
from stemma.registry.references import Reference, parse_reference
from stemma.registry.semver import Version, parse_version
from stemma.store.database import Connection

KIND: Final = Kind("policy", "policy_versions", "decide:publish")


@dataclass(frozen=True, slots=True)
class Texts:
    """A policy and its golden cases, as YAML."""

    policy: str
    tests: str


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


def newest(connection: Connection, name: str) -> Published:
    """What `name@latest` is, or the version published last where none is stable; raises NotFound."""
    try:
        return catalog.find(connection, KIND, Reference(name))
    except NotFound:
        (last,) = catalog.list_versions(connection, KIND, name, limit=1).data
        return find(connection, last.reference)


def load(connection: Connection, reference: str) -> Applicable:
    """The same, compiled."""
    return applied(find(connection, reference))


def diff(connection: Connection, before: str, after: str) -> tuple[Difference, ...]:
    """How what two references resolve to differs; raises InvalidInput, NotFound."""
    return differences(find(connection, before).content, find(connection, after).content)


def texts(published: Published) -> Texts:
    """A published version as YAML; its comments are not kept anywhere."""
    named = {"name": published.name, "version": published.version, "changelog": published.changelog}
    policy = Policy.of_content(published.content["policy"], **named)
    cases = golden.Cases.model_validate({"cases": published.content["tests"]})
    return Texts(yaml_text.write({**named, **policy.content()}), yaml_text.write({"cases": cases.content()}))


def next_texts(connection: Connection, reference: str) -> Texts:
    """What a version says, to be written on: under the next minor version of its major, with no changelog yet.

    Raises InvalidInput, NotFound.
    """
    published = find(connection, reference)
    major = parse_version(published.version).major
    newest = catalog.newest_of_major(connection, KIND, published.name, major)
    minor = newest.minor + 1 if newest else 0
    return texts(replace(published, version=str(Version(major, minor, 0)), changelog=""))


def before(connection: Connection, draft: Draft) -> Published | None:
    """What a draft would follow: the newest of its major, else what `latest` is; None for the first of its name."""
    newest = catalog.newest_of_major(connection, KIND, draft.name, draft.version.major)
    try:
        return catalog.find(connection, KIND, Reference(draft.name, newest))
    except NotFound:
        return None
