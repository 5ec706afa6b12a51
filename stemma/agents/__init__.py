"""The seven agents: who they are, what they may use, what they remember, and how one of their answers comes about.

Which provider answers for them is the business of `stemma.llm`.
"""
