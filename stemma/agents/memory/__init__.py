"""What agents remember of calls and of what they were told, each caller's apart.

`model` says what a memory is, `storing` makes the changes, `recalling` chooses what a call is reminded of, `catalog`
reads, `distilling` makes facts of a day's episodes, `vectors` says what is near. `keeper` is what the relay is handed.
"""
