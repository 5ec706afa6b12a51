"""What the governance loop remembers, day by day: features of entities, snapshots, scorecards and drift.

`days` decides which days are made anew, by a hash over what they are made of (`inputs`); `staleness` tells of them.
`features` sums up a day for each entity, `windows` is what a decision asks: the sum of the days before; `parquet`
writes them as files. `snapshots` says a day in words, `embeddings` fills the vectors of decisions that lack one.
`scorecards` compares variants, `drift` distributions; `alarms` tells of it. `recount` works the features out a second
time, another way; `catalog` reads. What starts any of it belongs to the assets.
"""
