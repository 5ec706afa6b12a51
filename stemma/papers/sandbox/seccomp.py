"""Seccomp filters: which system calls a sandboxed program may not make, as a program for the kernel's filter machine.

Everything is allowed but what reaches out of the sandbox or round its limits. Source: seccomp(2), the tables of system
calls of Linux 6.12 (x86-64 and the generic one, which aarch64 has).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Final

_LD_WORD, _JEQ, _JGE, _JSET, _AND, _RET = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_SET_MODE_FILTER: Final = 1
_NR, _ARCH, _ARGUMENT = 0, 4, 16

_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_STREAM: Final = 1
_TYPE_MASK: Final = 0xF
_NEW_NAMESPACES: Final = 0x7E020000
_TIOCSTI: Final = 0x5412

_X32: Final = 0x40000000
_AUDIT: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# By name: the number on x86-64 (None where there is no such call) and on aarch64.
_NUMBERS: Final[dict[str, tuple[int | None, int | None]]] = {
    "acct": (163, 89), "add_key": (248, 217), "bpf": (321, 280), "chmod": (90, None), "chown": (92, None),
    "chroot": (161, 51), "clock_settime": (227, 112), "clone": (56, 220), "clone3": (435, 435), "connect": (42, 203),
    "delete_module": (176, 106), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "fchown": (93, 55), "fchownat": (260, 54), "finit_module": (313, 273), "fremovexattr": (199, 16),
    "fsconfig": (431, 431), "fsetxattr": (190, 7), "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433),
    "futimesat": (261, None), "init_module": (175, 105), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425), "ioctl": (16, 29), "kcmp": (312, 272), "kexec_file_load": (320, 294),
    "kexec_load": (246, 104), "keyctl": (250, 219), "kill": (62, 129), "lchown": (94, None), "lremovexattr": (198, 15),
    "lsetxattr": (189, 6), "memfd_create": (319, 279), "memfd_secret": (447, 447), "mount": (165, 40),
    "mount_setattr": (442, 442), "move_mount": (429, 429), "mq_open": (240, 180), "msgget": (68, 186),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "perf_event_open": (298, 241), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41), "prlimit64": (302, 261), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "ptrace": (101, 117), "quotactl": (179, 60), "reboot": (169, 142), "removexattr": (197, 14),
    "request_key": (249, 218), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "semget": (64, 190),
    "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268), "setpriority": (141, 140),
    "settimeofday": (164, 170), "setxattr": (188, 5), "shmget": (29, 194), "socket": (41, 198), "swapoff": (168, 225),
    "swapon": (167, 224), "syslog": (103, 116), "tgkill": (234, 131), "tkill": (200, 130), "umount2": (166, 39),
    "unshare": (272, 97), "userfaultfd": (323, 282), "utime": (132, None), "utimensat": (280, 88),
    "utimes": (235, None),
}  # fmt: skip
_NEVER: Final = (
    "acct", "add_key", "bpf", "chroot", "clock_settime", "delete_module", "finit_module", "fsconfig", "fsmount",
    "fsopen", "fspick", "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "kcmp",
    "kexec_file_load", "kexec_load", "keyctl", "memfd_secret", "mount", "mount_setattr", "move_mount", "mq_open",
    "msgget", "name_to_handle_at", "open_by_handle_at", "open_tree", "perf_event_open", "pidfd_getfd", "pivot_root",
    "process_vm_readv", "process_vm_writev", "ptrace", "quotactl", "reboot", "request_key", "semget", "setdomainname",
    "sethostname", "setns", "settimeofday", "shmget", "swapoff", "swapon", "syslog", "umount2", "unshare",
    "userfaultfd",
)  # fmt: skip
# Memory that belongs to no process cannot be told of without a control group.
_UNCOUNTED: Final = ("memfd_create",)
# Landlock has no say in whom a file belongs to and when it changed. Copying files does all that in passing: it is told
# that it succeeded.
_PRETENDED: Final = (
    "chmod", "chown", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "fremovexattr", "fsetxattr",
    "futimesat", "lchown", "lremovexattr", "lsetxattr", "removexattr", "setxattr", "utime", "utimensat", "utimes",
)  # fmt: skip
_TO_OTHERS: Final = ("pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "setpriority")
_SIGNALS: Final = ("kill", "tgkill", "tkill")


class Unsupported(Exception):
    """The numbers of this machine's system calls are not known here."""


def is_known() -> bool:
    """Whether filters can be made for this machine's processors."""
    return platform.machine() in _AUDIT


def namespaced(*, counted: bool) -> bytes:
    """The filter for a program that has namespaces of its own; `counted` where a control group counts its memory."""
    filter_ = _Filter()
    filter_.deny(*_NEVER, *(() if counted else _UNCOUNTED))
    filter_.deny_argument("socket", 0, allowed=(_UNIX, _INET, _INET6, _NETLINK))
    return filter_.program()


def landlocked(own_pid: int, *, scoped: bool) -> bytes:
    """The filter beside Landlock: no network, no way to others' sockets, and, unless Landlock is `scoped`, no signals.

    A program may always signal itself, by its process id or that of its group.
    """
    filter_ = _Filter()
    filter_.deny(*_NEVER, *_UNCOUNTED, *_TO_OTHERS, "connect")
    filter_.pretend(*_PRETENDED)
    filter_.deny_argument("socket", 0, allowed=(_UNIX,))
    # Datagrams are sent to whom one likes without connecting.
    filter_.deny_argument("socket", 1, allowed=(_STREAM,), mask=_TYPE_MASK)
    filter_.deny_argument("prlimit64", 0, allowed=(0, own_pid))
    if not scoped:
        for call in _SIGNALS:
            filter_.deny_argument(call, 0, allowed=(own_pid, -own_pid & 0xFFFFFFFF) if call == "kill" else (own_pid,))
    return filter_.program()


def install(program: bytes) -> None:
    """Put a filter in force, for ever and for what is started. Takes `no_new_privs`. Raises OSError."""

    class _Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program, len(program))
    given = _Program(len(program) // 8, ctypes.addressof(buffer))
    number = 317 if platform.machine() == "x86_64" else 277
    if libc.syscall(number, _SET_MODE_FILTER, 0, ctypes.byref(given)) != 0:
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")


class _Filter:
    """A filter as it is written: each rule ends in a return, or falls through to the next."""

    def __init__(self) -> None:
        machine = platform.machine()
        if machine not in _AUDIT:
            raise Unsupported(machine)
        self._column = 0 if machine == "x86_64" else 1
        self._code = [(_LD_WORD, 0, 0, _ARCH), (_JEQ, 1, 0, _AUDIT[machine]), (_RET, 0, 0, _KILL)]
        self._code.append((_LD_WORD, 0, 0, _NR))
        if machine == "x86_64":
            self._code += [(_JGE, 0, 1, _X32), _refused(errno.EPERM)]
        # Its flags lie in memory, where no filter can look; C libraries then use `clone`.
        self._returning("clone3", errno.ENOSYS)
        number = self._number("clone")
        self._code += [
            (_JEQ, 0, 4, number), (_LD_WORD, 0, 0, _ARGUMENT), (_JSET, 0, 1, _NEW_NAMESPACES),
            _refused(errno.EPERM), (_LD_WORD, 0, 0, _NR),
        ]  # fmt: skip
        # Keys pushed into a terminal are typed in it.
        self._code += [
            (_JEQ, 0, 4, self._number("ioctl")), (_LD_WORD, 0, 0, _ARGUMENT + 8), (_JEQ, 0, 1, _TIOCSTI),
            _refused(errno.EPERM), (_LD_WORD, 0, 0, _NR),
        ]  # fmt: skip

    def deny(self, *calls: str) -> None:
        """Refuse these whatever their arguments."""
        for call in calls:
            self._returning(call, errno.EPERM)

    def pretend(self, *calls: str) -> None:
        """Answer these as if they had been done."""
        for call in calls:
            self._returning(call, 0)

    def deny_argument(self, call: str, index: int, *, allowed: tuple[int, ...], mask: int | None = None) -> None:
        """Refuse a call unless one of its arguments, masked, has one of these values."""
        test = [(_LD_WORD, 0, 0, _ARGUMENT + 8 * index)]
        if mask is not None:
            test.append((_AND, 0, 0, mask))
        test += [(_JEQ, len(allowed) - place, 0, value) for place, value in enumerate(allowed)]
        test += [_refused(errno.EPERM), (_LD_WORD, 0, 0, _NR)]
        self._code += [(_JEQ, 0, len(test), self._number(call)), *test]

    def program(self) -> bytes:
        """The whole program."""
        return b"".join(struct.pack("=HBBI", *step) for step in [*self._code, (_RET, 0, 0, _ALLOW)])

    def _returning(self, call: str, error: int) -> None:
        if _NUMBERS[call][self._column] is not None:
            self._code += [(_JEQ, 0, 1, self._number(call)), _refused(error)]

    def _number(self, call: str) -> int:
        number = _NUMBERS[call][self._column] if call in _NUMBERS else None
        assert number is not None, call
        return number


def _refused(error: int) -> tuple[int, int, int, int]:
    return _RET, 0, 0, 0x00050000 | error
