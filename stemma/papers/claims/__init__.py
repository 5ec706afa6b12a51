"""Finding what a paper claims: numbers, what they measure, and exactly where they are printed.

`reading` puts together what `tables`, `listings` and `sentences` find by rules; `asking` has a model find more. Either
way `grounding` has the last word: a value whose digits are not on the cited page is refused.
"""
