"""What a sandboxed program may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Of all its processes together: memory, processes with their threads, and what its folder may hold.

    Sizes are bytes. `scratch_bytes` is what /tmp and /dev/shm may hold each, where the sandbox has them.
    """

    memory_bytes: int
    tasks: int
    disk_bytes: int
    scratch_bytes: int
    files: int = 10_000
