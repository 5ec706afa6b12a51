"""The tamper-evident record: hash chains, signed Merkle heads in a second store, proofs, and their verification.

Every entry is one row of the table `ledger` (migration 0002). What a chain is for, and what its entries mean, belongs
to the capability that appends to it.
"""
