"""Landlock: a process gives up every right to files that is not listed, TCP, and others' signals and sockets.

Version 3 is the least that keeps files from being truncated. Source: landlock(7), Documentation/userspace-api/landlock.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

LEAST: Final = 3
SCOPED: Final = 6

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_PATH_BENEATH: Final = 1
_EXECUTE, _WRITE, _READ, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_ALL_V3: Final = (1 << 15) - 1
_REFER: Final = 1 << 13
_MAKE_SPECIAL: Final = (1 << 6) | (1 << 11)
_OF_FILES: Final = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_TCP: Final = 3
_SCOPES: Final = 3

READ: Final = _EXECUTE | _READ | _READ_DIR
USE: Final = _READ | _WRITE
# Everything but devices: nobody needs one in a working folder.
WRITE: Final = (_ALL_V3 & ~_MAKE_SPECIAL) & ~_EXECUTE


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """The version that this kernel has; 0 where it has none or does not let it be used."""
    return max(0, int(_libc().syscall(_CREATE, None, ctypes.c_size_t(0), 1)))


def restrict(rules: Iterable[tuple[str, int]]) -> None:
    """Give up, for ever and for what is started, all but these rights below these paths; missing paths do not count.

    Takes `no_new_privs`. Raises OSError.
    """
    known = version()
    handled = _ALL_V3 | (_IOCTL if known >= 5 else 0)
    ruleset = _Ruleset(handled, _TCP if known >= 4 else 0, _SCOPES if known >= SCOPED else 0)
    size = 24 if known >= SCOPED else 16 if known >= 4 else 8
    libc = _libc()
    handle = _checked(libc.syscall(_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(size), 0), "landlock_create_ruleset")
    for path, rights in rules:
        if Path(path).exists():
            _allow(libc, handle, path, rights & handled)
    _checked(libc.syscall(_RESTRICT, handle, 0), "landlock_restrict_self")
    os.close(handle)


def _allow(libc: ctypes.CDLL, handle: int, path: str, rights: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        allowed = rights if Path(path).is_dir() else rights & _OF_FILES
        rule = _Beneath(allowed, opened)
        _checked(libc.syscall(_ADD, handle, _PATH_BENEATH, ctypes.byref(rule), 0), "landlock_add_rule")
    finally:
        os.close(opened)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, call: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")
    return result
