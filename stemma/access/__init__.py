"""Who may do what: roles, keys with scopes, request signatures.

`permissions` is the one table and `principal` what the rest of the studio knows of a caller. `authentication` and
`signatures` find out who sent a request, `keys` makes the changes of keys, `catalog` and `audit` read. How a face asks
for a permission is the face's business.
"""
