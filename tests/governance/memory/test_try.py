import time, random, sys, os

sys.path.insert(0, "tests/governance/memory")
from conftest import *
import pytest
from stemma.governance.memory import features, snapshots, drift, scorecards, embeddings, windows
from stemma.governance.memory.inputs import Span
from stemma.knowledge.embedding import load_model


def test_it(world):
    r = random.Random(1)
    rows = []
    for i in range(10000):
        rows.append(
            asked(
                r.randrange(1460),
                f"c{r.randrange(800)}",
                amount=round(r.random() * 1000, 2),
                discount=r.choice([0, 0.1, 0.2]),
                metrics={"profit": round(r.random() * 100 - 30, 4)},
                variant=r.choice(["baseline", "cautious"]),
                verdict=r.choice(["approve", "deny", "escalate"]),
                later=r.randrange(5),
            )
        )
    t = time.time()
    world.happen(rows)
    print("fill", time.time() - t)
    span = Span(world.day(0), world.day(1464))

    def timed(n, f):
        t = time.time()
        x = f()
        print(n, round(time.time() - t, 2), len(x.made), x.rows)
        return x

    db = world.database
    for i in range(2):
        timed("features", lambda: features.sync_features(db, span))
        timed("scorecards", lambda: scorecards.sync_scorecards(db, span))
        timed("drift", lambda: drift.sync_drift(db, span))
        if i == 0:
            t = time.time()
            m = load_model(world.settings)
            m.model
            print("load", time.time() - t)
        timed("snapshots", lambda: snapshots.sync_snapshots(db, span, m))
    with db.snapshot() as c:
        print(c.execute("select text from knowledge_snapshots order by day limit 2 offset 500").fetchall())
        print(c.execute("select * from entity_features limit 2").fetchall())
        from stemma.governance import nodes

        t = time.time()
        print(windows.features_on(c, nodes.load(c, "finance"), "c7", world.day(700)), time.time() - t)
        print(c.execute("select content from scorecards where day=%s", (world.day(900),)).fetchall())
        print(c.execute("select content from drift_reports where day=%s", (world.day(900),)).fetchall())
        print(c.execute("select count(*) from drift_reports where alarmed").fetchall())
    for i in (300,):
        world.happen([asked(i, "c7", decided=False)])
        timed("features", lambda: features.sync_features(db, span))
        timed("scorecards", lambda: scorecards.sync_scorecards(db, span))
        timed("drift", lambda: drift.sync_drift(db, span))
        timed("snapshots", lambda: snapshots.sync_snapshots(db, span, m))
