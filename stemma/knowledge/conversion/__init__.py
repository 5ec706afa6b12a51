"""One module per document format, each turning bytes or decoded text into text, title and headings.

Choosing the format is `stemma.knowledge.convert`'s work; nothing here reads files or the database.
"""
