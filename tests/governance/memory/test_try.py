import random
import sys
import time

sys.path.insert(0,'tests/governance/memory')
from conftest import *

from cli import execution


def test_it(world):
    world.first=date(2014,1,3)
    r=random.Random(1)
    rows=[asked(r.randrange(365), f"c{r.randrange(80)}", metrics={"profit": 3}) for i in range(1500)]
    world.happen(rows)
    execution.materialize(world.settings, world.database, "governance/scorecards", "2014-01-03")
    t=time.process_time()
    o=execution.materialize(world.settings, world.database, "key:governance/entity_features or key:governance/drift or key:governance/scorecards", "2014-01-03...2015-01-02")
    print("CPU",time.process_time()-t, o.seconds, o.receipts)
    print([(b.asset,b.seconds) for b in o.built])
