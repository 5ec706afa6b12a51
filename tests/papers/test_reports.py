from __future__ import annotations
import json


def test_x(settings, database, reproduce):
    from stemma.papers.reports.publishing import report_of

    for sheet in ("s1_wine_loo", "s2_fisher_iris"):
        r = reproduce(settings, database, sheet)
        print(json.dumps(r.plan.document, indent=1)[:1500])
        rep = database.read(lambda c: report_of(c, r.paper.id)).report
        print(rep.model_dump_json(indent=1))
        print([(f.metric, f.verdict, f.reason) for f in rep.findings], rep.to_try)
    assert 0
