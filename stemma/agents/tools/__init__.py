"""What agents can do besides talking: each tool, who may use it, and how its result comes back.

`registry` names every tool; one module for each capability says what its tools take and do. `toolbox` is the one way in
which they are used: it asks whether the agent was granted the tool and whether the caller may do this, checks what a
model wrote, and marks what was found as data (`marking`). What is destructive waits for a person (`waiting`).
"""
