"""Learning: which variant of a policy decides next, what its outcomes say, and what another policy would have done.

`stats` counts draws and outcomes, `posteriors` has the arithmetic of what they teach, `drawing` draws a variant,
`assessment` compares variants with the baseline, `standing` says how learning stands at a node. `stopping` takes the
traffic from a variant that does harm, `promotion` has a person make one the baseline, by the policy that `successor`
writes, `catalog` reads promotions, `tending` does what is due. `logged` reads decisions as they were made; on them
stand `replay`, `shadow` and `simulation`, which say by `comparing` what another policy says, and, with `valued` and
`modelling`, `offpolicy`, which evaluates what was not drawn, and `estimates`, which says what refusing saved. How a
decision is made belongs to `decisions`, what an outcome counts as to `outcomes`.
"""
