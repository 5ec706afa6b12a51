"""What a process tells of itself: metrics, traces, unexpected errors, and the minutes of its health.

Nothing here changes what the studio does, and nothing that fails here fails a request. Labels, spans and reports hold
names of ours alone: routes by their template, kinds, states, never what a caller sent.
"""
