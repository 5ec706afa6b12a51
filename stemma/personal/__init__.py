"""Personal data: fields sealed under a key per subject, and erasing a subject by destroying that key.

An entry of the ledger stays for ever, so that what is personal enters it encrypted and names the person by a
pseudonym. What a field means, and which fields are personal, belongs to the capability that appends the entry.
"""
