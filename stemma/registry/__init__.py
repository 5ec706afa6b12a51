"""Versioned documents: published once, immutable, found by name and version or alias.

`semver` orders versions, `references` reads `name@1.2`, `model` says what is kept, `publishing` makes the change,
`catalog` reads, `differences` compares contents. What a document means is the business of the capability whose kind it
is; each kind has a table of its own.
"""
