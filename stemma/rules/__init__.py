"""Conditions in CEL over declared variables, bounded before they are first evaluated.

`language` says what a condition may use and how much, `syntax` reads what the compiler made of it, `conditions`
compiles and evaluates. What a condition decides is its caller's business.
"""
