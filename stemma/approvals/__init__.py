"""One object for every gate: exact bytes that somebody has to approve before something is done with them.

A capability calls `requests.request`, waits for `decisions`, and then `grants.require_approved` and `grants.consume`,
joined with its own change. `catalog` reads, `expiry` settles what nobody decided in time, and `steps` says what the
ledger keeps of it.
"""
