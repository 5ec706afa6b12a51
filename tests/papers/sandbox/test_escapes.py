"""Escapes from the sandbox, tried at every level that this machine allows; the head of the report says which.

No probe is skipped at any level, and a machine without a level fails.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from stemma.papers.sandbox import folders
from stemma.papers.sandbox.levels import Level, machine
from stemma.papers.sandbox.limits import Limits
from stemma.papers.sandbox.started import Report, Sandbox, start

LIMITS = Limits(memory_bytes=300 << 20, tasks=40, disk_bytes=30 << 20, scratch_bytes=8 << 20, files=500)
_PATIENCE = 60

# Each is tried by one program, in a process of its own where it may end it; what it returns has got out.
PROBES = """
import ctypes, json, os, signal, socket, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
given = json.loads(sys.argv[1])


def tcp():
    socket.create_connection(("192.0.2.1", 80), timeout=1)
    return "connected"


def tcp_that_answers_late():
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    except TimeoutError:
        return "packets leave"


def loopback():
    socket.create_connection(("127.0.0.1", given["port"]), timeout=2)
    return "connected"


def udp():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53))
    return "sent"


def dns():
    return socket.getaddrinfo("example.org", 80)


def vsock():
    socket.socket(socket.AF_VSOCK).connect((2, 1))
    return "connected"


def abstract_socket():
    socket.socket(socket.AF_UNIX).connect("\\0" + given["abstract"])
    return "connected"


def abstract_datagram():
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", "\\0" + given["datagram"])
    return "sent"


def socket_of_the_host():
    socket.socket(socket.AF_UNIX).connect(given["socket"])
    return "connected"


def host_files():
    return open(given["file"]).read()


def host_file_by_link():
    os.symlink(given["file"], "link")
    return open("link").read()


def shadow():
    return open("/etc/shadow").read()


def folders_of_the_host():
    return os.listdir(given["folder"])


def secrets_in_environment():
    return [name for name in os.environ if "SECRET" in name]


def environment_of_another():
    return open(f"/proc/{given['pid']}/environ").read()


def write_to_venv():
    open(os.path.join(sys.prefix, "escaped"), "w").close()
    return "written"


def write_to_usr():
    open("/usr/escaped", "w").close()
    return "written"


def write_to_host():
    open(given["file"] + ".escaped", "w").close()
    return "written"


def move_own_folder():
    os.rename("../run", "../moved")
    return os.path.exists(given["run"]) is False


def write_beside_own_folders():
    os.symlink(given["file"], "../link")
    os.symlink(given["file"], "../other")


def truncate_host_file():
    os.truncate(given["file"], 0)
    return "truncated"


def remove_host_file():
    os.remove(given["file"])
    return "removed"


def change_mode_of_host_file():
    os.chmod(given["file"], 0o777)


def host_processes():
    return str(given["pid"]) in os.listdir("/proc") and "pytest" in open(f"/proc/{given['pid']}/cmdline").read()


def signal_to_host():
    # By this number there may be a process of our own in here.
    if not os.path.exists("/proc/self") or os.readlink("/proc/self") != str(given["pid"]):
        os.kill(given["pid"], 0)
        return "signalled"


def signal_to_all():
    os.kill(-1, 0)
    return None


def trace():
    if libc.ptrace(16, given["pid"], 0, 0) == 0:
        return "attached"


def setuid():
    os.setuid(0)
    return "root"


def setuid_programs():
    import subprocess
    done = subprocess.run(["su", "-c", "id -u"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.stdout.strip() == "0"


def capabilities():
    return int([line for line in open("/proc/self/status") if line.startswith("CapEff")][0].split()[1], 16)


def mount():
    if libc.mount(b"none", os.getcwd().encode(), b"tmpfs", 0, None) == 0:
        return "mounted"


def user_namespace():
    if libc.unshare(0x10000000) == 0:
        return "unshared"


def user_namespace_by_clone():
    child = libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0) if os.uname().machine == "x86_64" else -1
    if child == 0:
        os._exit(0)
    if child > 0:
        return "cloned"


def io_uring():
    if libc.syscall(425, 1, ctypes.create_string_buffer(120)) >= 0:
        return "set up"


def terminal():
    import fcntl
    fcntl.ioctl(0, 0x5412, b"x")
    return "typed"


def devices():
    return [name for name in os.listdir("/dev") if name.startswith(("nvidia", "sd", "vd", "kvm", "mem"))]


found = {}
for name, probe in list(globals().items()):
    if callable(probe) and getattr(probe, "__module__", None) == "__main__":
        try:
            escaped = probe()
        except BaseException as error:
            escaped = None
        found[name] = str(escaped)[:80] if escaped else None
print(json.dumps(found))
"""


LEVELS = machine().levels or (Level.UNCONFINED,)


def test_a_level_is_in_force() -> None:
    assert machine().levels, "this machine allows no sandbox: notebooks would be refused"


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder for one sandbox."""
    folder = Path(tempfile.mkdtemp(prefix="stemma-run-"))
    for name in ("work", "run"):
        (folder / name).mkdir()
    yield folder
    folders.remove(folder)
    assert not folder.exists()


def _begin(level: Level, base: Path, source: str, *arguments: str) -> Sandbox:
    program = [sys.executable, "-c", source, *arguments]
    env = {"HOME": str(base / "work"), "PATH": "/usr/bin:/bin"}
    return start(level, program, base=base, folder=base / "work", env=env, limits=LIMITS)


def _run(level: Level, base: Path, source: str, *arguments: str) -> tuple[Report, str]:
    sandbox = _begin(level, base, source, *arguments)
    try:
        assert sandbox.wait(_PATIENCE), "it goes on for ever"
    finally:
        report = sandbox.end()
    return report, (base / "output.log").read_text(errors="replace")


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_gets_out(level: Level, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "hunter2")
    mark = uuid.uuid4().hex
    secret = tmp_path / "secret.txt"
    secret.write_text("host")
    secret.chmod(0o600)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram,
        tempfile.TemporaryDirectory() as short,
        socket.socket(socket.AF_UNIX) as named,
    ):
        abstract.bind(f"\0{mark}")
        abstract.listen()
        datagram.bind(f"\0{mark}d")
        named.bind(f"{short}/s")
        named.listen()
        given = {
            "port": listening.getsockname()[1],
            "abstract": mark,
            "datagram": f"{mark}d",
            "socket": f"{short}/s",
            "file": str(secret),
            "folder": str(tmp_path),
            "run": str(base / "run"),
            "pid": os.getpid(),
        }
        report, output = _run(level, base, PROBES, json.dumps(given))
    assert report == Report("exit", 0), output
    found = json.loads(output.splitlines()[-1])
    assert len(found) == PROBES.count("\ndef ")
    # Passing folders on the way is all that a program of root's has left, and Landlock bounds it.
    if os.geteuid() == 0 and level is Level.LANDLOCK:
        found["capabilities"] = None
    assert {name: escaped for name, escaped in found.items() if escaped} == {}
    assert sorted(path.name for path in base.iterdir()) == ["keeper.log", "output.log", "run", "work"]
    assert secret.read_text() == "host"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert not (Path(sys.prefix) / "escaped").exists()


_FORKS = """
import os, time
made = 0
try:
    while made < 2000:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
except OSError:
    pass
print("made", made, flush=True)
"""
_MEMORY = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        kept = bytearray(120 << 20)
        kept[::4096] = b"x" * len(kept[::4096])
        time.sleep(3)
        os._exit(0)
children = [os.wait() for _ in range(8)]
"""
_GROWTH = """
kept = []
while True:
    kept.append(bytearray(16 << 20))
"""
_FILL = """
import os, sys
written = 0
try:
    for number in range(40):
        with open(os.path.join(sys.argv[1], f"stemma-fill-{number}"), "wb") as file:
            for _ in range(8):
                written += file.write(b"x" * (1 << 20))
except OSError:
    pass
print("wrote", written, flush=True)
import time
time.sleep(float(sys.argv[2]))
"""
_DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]])
    os._exit(0)
os.wait()
time.sleep(0.2)
"""


def _alive(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("level", LEVELS)
def test_a_fork_bomb_goes_off_inside(level: Level, base: Path) -> None:
    report, output = _run(level, base, _FORKS)
    made = re.search(r"made (\d+)", output)
    assert report.reason == "tasks" or (made is not None and int(made[1]) <= LIMITS.tasks)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bomb", [_MEMORY, _GROWTH], ids=["by many", "by one"])
def test_a_memory_bomb_goes_off_inside(level: Level, base: Path, bomb: str) -> None:
    report, output = _run(level, base, bomb)
    assert report.reason == "memory" or "MemoryError" in output


@pytest.mark.parametrize("level", LEVELS)
def test_a_full_folder_ends_it(level: Level, base: Path) -> None:
    report, _ = _run(level, base, _FILL, ".", "60")
    assert report.reason == "disk"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_scratch_is_bounded(level: Level, base: Path, folder: str) -> None:
    _, output = _run(level, base, _FILL, folder, "0")
    wrote = re.search(r"wrote (\d+)", output)
    assert wrote is not None and int(wrote[1]) <= LIMITS.scratch_bytes
    assert list(Path(folder).glob("stemma-fill-*")) == []


@pytest.mark.parametrize("level", LEVELS)
def test_no_daemon_survives(level: Level, base: Path) -> None:
    mark = f"daemon-{uuid.uuid4().hex}"
    report, output = _run(level, base, _DAEMON, mark)
    assert report == Report("exit", 0), output
    assert _alive(mark) == []


_OWNER = """
import sys, time
from pathlib import Path
from stemma.papers.sandbox import folders
from stemma.papers.sandbox.levels import Level
from stemma.papers.sandbox.limits import Limits
from stemma.papers.sandbox.started import start
base = Path(sys.argv[2])
said = [sys.executable, "-c", sys.argv[4], sys.argv[3]]
limits = Limits(300 << 20, 40, 30 << 20, 8 << 20)
start(Level(sys.argv[1]), said, base=base, folder=base / "work", env={}, limits=limits)
while not (base / "output.log").exists() or "up" not in (base / "output.log").read_text():
    time.sleep(0.01)
print("up", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_outlives_who_asked(level: Level, base: Path) -> None:
    """Killed without a chance to clear up, it leaves no process, no folder and no control group."""
    mark = f"orphan-{uuid.uuid4().hex}"
    groups = _groups()
    program = _DAEMON + "print('up', flush=True)\ntime.sleep(600)\n"
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, level.value, str(base), mark, program],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    assert _alive(mark) != []
    owner.kill()
    owner.wait()
    gone = threading.Event()
    for _ in range(600):
        if not base.exists() and not _alive(mark):
            break
        gone.wait(0.05)
    assert _alive(mark) == []
    assert not base.exists()
    assert _groups() <= groups


def _groups() -> set[str]:
    return {str(path) for path in Path("/sys/fs/cgroup").glob("**/stemma-*")}
