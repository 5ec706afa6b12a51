"""Making a plan for a paper: from a template that can measure its accepted claims, or as a person wrote it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from importlib import metadata
from typing import Final
from uuid import UUID, uuid5

import rfc8785
from psycopg.types.json import Jsonb

from stemma.access.principal import Principal
from stemma.errors import Conflict, InvalidInput, NotFound
from stemma.ledger.change import Change
from stemma.ledger.entries import NewEntry
from stemma.ledger.journal import audited, transition
from stemma.ledger.writer import Statement
from stemma.papers import catalog
from stemma.papers.intake import subject
from stemma.papers.model import Claim, Paper, Plan, PlanOrigin
from stemma.papers.plan import MAX_TARGETS, PlanDocument, Target, parse_plan
from stemma.papers.templates import TEMPLATES, find
from stemma.papers.templates.template import FIVE_SEEDS, Measurable, Template
from stemma.store.database import Connection, database_time
from stemma.store.outputs import Artifact

_PLANS: Final = UUID("d5b9f4c6-1a67-4f35-8a3b-2c9f0a6e4d02")
_INSERT: Final = """
    INSERT INTO p2n.plans (id, paper_id, version, document, sha256, origin, template, created_at, created_by)
    VALUES (%(id)s, %(paper_id)s, %(version)s, %(document)s, %(sha256)s, %(origin)s, %(template)s, %(created_at)s,
        %(created_by)s)
    ON CONFLICT (id) DO NOTHING
"""
_PLANNED: Final = """
    UPDATE p2n.papers SET status = 'planned', error_code = NULL, error_message = NULL, updated_at = %(now)s
    WHERE id = %(id)s
"""


def propose(paper: Paper, claims: Sequence[Claim]) -> PlanDocument:
    """The plan of the template that measures most of a paper's accepted claims, on one set of data.

    Raises InvalidInput: `no_accepted_claims`, `no_template`.
    """
    accepted = require_accepted(claims)
    measured: dict[tuple[str, str], list[tuple[Claim, Measurable]]] = defaultdict(list)
    for template in TEMPLATES.values():
        for claim in accepted:
            if (how := template.measure(claim)) is not None:
                measured[template.name, how.dataset.name].append((claim, how))
    if not measured:
        raise InvalidInput(
            "no_template",
            "No template measures any of the accepted claims.",
            hint=f"Write a plan of your own; there are templates for {', '.join(TEMPLATES)}.",
        )
    name, dataset = max(measured, key=lambda key: len(measured[key]))
    return _document(paper, find(name), measured[name, dataset])


def require_accepted(claims: Sequence[Claim]) -> list[Claim]:
    """The accepted ones; raises InvalidInput(no_accepted_claims) where there is none."""
    accepted = [claim for claim in claims if claim.status == "accepted"]
    if not accepted:
        raise InvalidInput(
            "no_accepted_claims",
            "None of the paper's claims is accepted, so that there is nothing to measure.",
            hint="Accept claims on the paper's page, or by `stemma papers accept`.",
        )
    return accepted


def _document(paper: Paper, template: Template, measured: Sequence[tuple[Claim, Measurable]]) -> PlanDocument:
    targets = _targets(measured)
    return PlanDocument(
        title=paper.title[:200] or "Untitled",
        template=template.name,
        targets=targets,
        dataset=measured[0][1].dataset,
        method=template.method,
        environment=template.environment,
        stochastic=template.stochastic,
        seeds=FIVE_SEEDS if template.stochastic else (0,),
        alternatives=template.alternatives(targets),
    )


def _targets(measured: Sequence[tuple[Claim, Measurable]]) -> tuple[Target, ...]:
    """One target for each thing that is measured: of a value that is printed twice, the one with most digits."""
    best: dict[str, tuple[Claim, Measurable]] = {}
    for claim, how in measured:
        same = repr((how.metric, how.split, sorted(how.parameters.items())))
        if same not in best or claim.decimals > best[same][0].decimals:
            best[same] = claim, how
    taken: dict[str, int] = {}
    targets = []
    for claim, how in sorted(best.values(), key=lambda pair: pair[0].position)[:MAX_TARGETS]:
        taken[how.metric] = taken.get(how.metric, 0) + 1
        metric = how.metric if taken[how.metric] == 1 else f"{how.metric}.{taken[how.metric]}"
        targets.append(_target(claim, how, metric))
    return tuple(targets)


def _target(claim: Claim, how: Measurable, metric: str) -> Target:
    of = [text for text in (claim.method, claim.metric) if text]
    return Target(
        claim=claim.id,
        metric=metric,
        split=how.split,
        label=", ".join(of)[:200],
        claimed=claim.value,
        printed=claim.printed,
        decimals=claim.decimals,
        unit=claim.unit,
        tolerance=tolerance_of(claim.decimals),
        page=claim.page,
        box=claim.box,
        quote=claim.quote[:2000],
        parameters=how.parameters,
    )


def tolerance_of(decimals: int) -> float:
    """How far from a printed value another one may lie: rounded alike, they differ by one unit of the last digit."""
    return float(f"1.5e-{decimals}")


def missing_packages(document: PlanDocument) -> tuple[str, ...]:
    """The packages that a plan needs, for its code or for its data, and that are not installed."""
    wanted = dict.fromkeys((*document.environment.packages, document.dataset.package))
    return tuple(name for name in wanted if not _installed(name))


def lacking(document: PlanDocument) -> InvalidInput | None:
    """Why a plan cannot be run here (`dataset_missing`, `package_missing`), where it cannot."""
    missing = missing_packages(document)
    if not missing:
        return None
    if document.dataset.package in missing:
        return InvalidInput(
            "dataset_missing",
            f"The data {document.dataset.name} come with the package {document.dataset.package}, "
            "which is not installed.",
            field="document.dataset.package",
            hint=document.dataset.note or "Install it, or name data that are here.",
        )
    return InvalidInput(
        "package_missing",
        f"The plan needs {', '.join(missing)}, which is not installed.",
        field="document.environment.packages",
        hint="Install it, or write a plan that does without.",
    )


def require_packages(document: PlanDocument) -> None:
    """Raises InvalidInput(dataset_missing, package_missing) where a plan could not be run here."""
    error = lacking(document)
    if error is not None:
        raise error


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except (metadata.PackageNotFoundError, ValueError):
        return False
    return True


def plan_made(connection: Connection, paper: Paper, document: PlanDocument, *, actor: str) -> Change[Plan] | None:
    """Keep what a template proposes as the newest version; None where that is what the newest one says."""
    newest = catalog.latest_plan(connection, paper.id)
    if newest is not None and newest.sha256 == document_sha256(document):
        return None
    return _new_version(connection, paper, document, newest, "template", actor, ())


def write_plan(connection: Connection, principal: Principal, paper_id: UUID, document: object) -> Change[Plan]:
    """Keep a plan that a person wrote as the newest version.

    Raises Forbidden, NotFound, and what `parse_plan` raises; InvalidInput (`template_unknown`, `plan_claim_unknown`,
    `plan_claim_differs`) where the plan is about what the paper does not claim.
    """
    principal.require("papers:write")
    paper = catalog.get_paper(connection, paper_id)
    plan = parse_plan(document)
    if plan.template is not None:
        find(plan.template)
    claims = {claim.id: claim for claim in catalog.list_claims(connection, paper_id)}
    for number, target in enumerate(plan.targets):
        _check_target(number, target, claims.get(target.claim))
    meta = {"targets": len(plan.targets), "template": plan.template}
    entries = audited(principal, "plan.written", resource=subject(paper_id), meta=meta)
    newest = catalog.latest_plan(connection, paper_id)
    if newest is not None and newest.sha256 == document_sha256(plan):
        return Change(entries, (), lambda _: newest)
    return _new_version(connection, paper, plan, newest, "person", principal.actor, entries)


def plan_by_model(connection: Connection, principal: Principal, paper: Paper, document: PlanDocument) -> Change[Plan]:
    """Keep a plan that a model wrote as the newest version; raises Forbidden."""
    principal.require("papers:write")
    meta = {"targets": len(document.targets), "cells": len(document.notebook)}
    entries = audited(principal, "plan.asked", resource=subject(paper.id), meta=meta)
    newest = catalog.latest_plan(connection, paper.id)
    return _new_version(connection, paper, document, newest, "model", principal.actor, entries)


def _check_target(number: int, target: Target, claim: Claim | None) -> None:
    if claim is None or claim.status == "rejected":
        what = f"The paper has no claim {target.claim} that was not rejected."
        raise InvalidInput("plan_claim_unknown", what, field=f"document.targets.{number}.claim")
    if (target.claimed, target.page) != (claim.value, claim.page):
        what = f"The claim says {claim.printed} on page {claim.page}, the plan {target.claimed:g} on {target.page}."
        raise InvalidInput("plan_claim_differs", what, field=f"document.targets.{number}.claimed")


def document_sha256(document: PlanDocument) -> str:
    """The SHA-256 of a plan's RFC 8785 bytes, hexadecimal."""
    return hashlib.sha256(rfc8785.dumps(document.model_dump(mode="json"))).hexdigest()


def _new_version(
    connection: Connection,
    paper: Paper,
    document: PlanDocument,
    newest: Plan | None,
    origin: PlanOrigin,
    actor: str,
    entries: tuple[NewEntry, ...],
) -> Change[Plan]:
    stored, sha256 = document.model_dump(mode="json"), document_sha256(document)
    version, now = (newest.version if newest else 0) + 1, database_time(connection)
    plan = Plan(
        # Of two who write the same version at once, the second finds its id taken.
        id=uuid5(_PLANS, f"{paper.id} {version}"),
        paper_id=paper.id,
        version=version,
        document=stored,
        sha256=sha256,
        origin=origin,
        template=document.template,
        created_at=now,
        created_by=actor,
    )
    row = {**{name: getattr(plan, name) for name in Plan.__slots__}, "document": Jsonb(stored)}
    refusal = Conflict("plan_changed", "Another version of the plan was written at this moment.", hint="Try again.")
    data = {"plan": str(plan.id), "version": version, "sha256": sha256, "origin": origin, "template": plan.template}
    made = transition("plan.made", subject=subject(paper.id), actor=actor, data=data)
    companions = (
        Statement(_INSERT, row, rows=1, refusal=refusal),
        Statement(_PLANNED, {"id": paper.id, "now": now}, rows=1),
    )
    return Change((*entries, made), companions, lambda _: plan)


def plan_artifact(plan: Plan) -> Artifact:
    """A version of a plan by its content."""
    return Artifact(f"plans/{plan.paper_id}", "application/json", plan.sha256, len(rfc8785.dumps(dict(plan.document))))


def require_plan(plan: Plan | None, paper_id: UUID) -> Plan:
    """The plan, where there is one; raises NotFound(paper_not_planned)."""
    if plan is None:
        hint = f"`stemma papers plan {paper_id}` makes one."
        raise NotFound("paper_not_planned", "The paper has no plan yet.", field="paper_id", hint=hint)
    return plan
