"""What agents may use and nobody may read: secrets sealed per agent, and what the founder confides to their own calls.

`master_keys` keeps what seals, `secrets` the sealed values, `confidences` the founder's file. A value leaves this
package as a `SecretStr`, for a tool that sends it where it belongs: never to a model, a log or the ledger.
"""
