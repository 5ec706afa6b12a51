"""Who may do what: roles, keys with scopes, request signatures.

`principal` is what the rest of the studio knows of a caller; how a request proves who it is from belongs to the other
modules of this package, and how a face asks for it to the face.
"""
