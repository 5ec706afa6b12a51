"""Under which identity PostgreSQL's programs run, and where their files must lie for that.

PostgreSQL refuses to run as root. This module finds a way that works on this machine and proves it by a
probe; starting and watching the server is the supervisor's. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stemma.errors import Unavailable

_UNPRIVILEGED_USER = "nobody"
_CAPABILITIES = ("dac_read_search", "dac_override")
_ENTERABLE_PARENTS = ("/var/lib", "/var/tmp", "/tmp")  # noqa: S108
_LOCATION = "location"


@dataclass(frozen=True, slots=True)
class Identity:
    """The user that PostgreSQL's programs run as: owner of their files, and how a program gets there."""

    uid: int
    gid: int
    prefix: tuple[str, ...] = ()
    drop: bool = False

    def command(self, *argv: str | Path) -> list[str]:
        """The argument list that runs `argv` under this identity."""
        return [*self.prefix, *map(str, argv)]

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `subprocess.Popen` that go with `command`."""
        switch: dict[str, Any] = {"user": self.uid, "group": self.gid, "extra_groups": []} if self.drop else {}
        return {"cwd": "/", "stdin": subprocess.DEVNULL, "env": program_environment(), **switch}

    def give(self, path: Path, mode: int) -> None:
        """Make `path` belong to this identity with `mode`."""
        path.chmod(mode)
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid)


@dataclass(frozen=True, slots=True)
class Runtime:
    """How the server runs: its identity, the folder of its programs, `root` with data, logs and socket."""

    identity: Identity
    binaries: Path
    root: Path
    strategy: str


def program_environment() -> dict[str, str]:
    """A small environment for PostgreSQL's programs: no PG* variable of the user's reaches the server."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", **kept, "LC_ALL": "C", "TZ": "UTC"}


def choose(binaries: Path, root: Path) -> Runtime:
    """Find how to run the programs in `binaries` on files under `root`; `root` exists and is ours.

    Raises Unavailable with code `postgres_root_refused` when no strategy works for root, and
    `home_not_writable` when another user's data lies there.
    """
    if os.geteuid() != 0:
        _require_own(root / "data")
        return Runtime(Identity(os.geteuid(), os.getegid()), binaries, root, "own user")
    elsewhere = recorded_location(root)
    place = elsewhere or root
    uid, gid = _owner(place / "data")
    for strategy, identity in _identities(uid, gid):
        if strategy == "plain" and elsewhere is None and not _enterable(root):
            continue
        if _works(identity, binaries, place):
            return Runtime(identity, binaries, place, strategy)
    if elsewhere is None and (root / "data").exists():
        raise _refused(root)
    return _copied(Identity(uid, gid, drop=True), binaries, root, elsewhere)


def recorded_location(root: Path) -> Path | None:
    """Where the data of `root` is kept instead, if it had to move to a folder that others can enter."""
    record = root / _LOCATION
    return Path(record.read_text(encoding="utf-8").strip()) if record.exists() else None


def _require_own(data: Path) -> None:
    if data.exists() and data.stat().st_uid != os.geteuid():
        raise Unavailable(
            "home_not_writable",
            f"The database in {data} belongs to another user (uid {data.stat().st_uid}).",
            field="STEMMA_HOME",
            hint="Run Stemma as that user or as root, or name another folder.",
        )


def _owner(data: Path) -> tuple[int, int]:
    """Whose files the cluster's are; `nobody` for a new one or one that root took over."""
    with contextlib.suppress(FileNotFoundError):
        status = data.stat()
        if status.st_uid != 0:
            return status.st_uid, status.st_gid
    try:
        entry = pwd.getpwnam(_UNPRIVILEGED_USER)
    except KeyError:
        return 65534, 65534
    return entry.pw_uid, entry.pw_gid


def _identities(uid: int, gid: int) -> Iterator[tuple[str, Identity]]:
    setpriv = shutil.which("setpriv")
    if setpriv and sys.platform == "linux":
        for capability in _CAPABILITIES:
            prefix = (
                setpriv,
                f"--reuid={uid}",
                f"--regid={gid}",
                "--clear-groups",
                "--securebits=+no_setuid_fixup",
                f"--inh-caps=+{capability}",
                f"--ambient-caps=+{capability}",
                "--",
            )
            yield capability, Identity(uid, gid, prefix=prefix)
    yield "plain", Identity(uid, gid, drop=True)


def _enterable(folder: Path) -> bool:
    """Whether every user may pass through; the innermost folder is ours and is opened for passing."""
    if not all(parent.stat().st_mode & 0o001 for parent in folder.parents):
        return False
    folder.chmod(0o711)
    return True


def _works(identity: Identity, binaries: Path, place: Path) -> bool:
    """Run a server program and write, then look up, a file under `place`, exactly as the server will."""
    script = '"$1" --version >/dev/null && : >"$0/probe" && test -r "$0/probe"'
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix="probe-") as folder:
            identity.give(Path(folder), 0o700)
            probe = identity.command("/bin/sh", "-c", script, folder, binaries / "postgres")
            return subprocess.run(probe, capture_output=True, timeout=30, **identity.options).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _copied(identity: Identity, binaries: Path, root: Path, elsewhere: Path | None) -> Runtime:
    """Keep programs and data in a folder that `nobody` can enter, and record where."""
    name = f"stemma-{zlib.crc32(os.fsencode(root)):08x}"
    for place in [elsewhere] if elsewhere else [Path(parent) / name for parent in _ENTERABLE_PARENTS]:
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o711, exist_ok=True)
            if place.is_symlink() or place.stat().st_uid != 0 or not _enterable(place):
                continue
            copies = _copy_programs(binaries, place)
            if _works(identity, copies, place):
                _record(root, place)
                return Runtime(identity, copies, place, "copy")
        if elsewhere is None and not (place / "data").exists():
            shutil.rmtree(place, ignore_errors=True)
    raise _refused(root)


def _copy_programs(binaries: Path, place: Path) -> Path:
    """Copy the installation with the libraries beside its package: programs look for them three levels up."""
    installation = binaries.parent
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")
    status = (binaries / "postgres").stat()
    version = place / f"programs-{status.st_size:x}-{status.st_mtime_ns:x}"
    copies = version / package.name / installation.name / "bin"
    if version.exists():
        return copies
    unfinished = Path(tempfile.mkdtemp(dir=place, prefix="copying-"))
    shutil.copytree(
        installation,
        unfinished / package.name / installation.name,
        symlinks=True,
        ignore=shutil.ignore_patterns("include", "*.a", "pkgconfig"),
    )
    if libraries.is_dir():
        shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
    for path in [unfinished, *unfinished.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    unfinished.rename(version)
    return copies


def _record(root: Path, place: Path) -> None:
    unfinished = root / f"{_LOCATION}.new"
    unfinished.write_text(f"{place}\n", encoding="utf-8")
    unfinished.replace(root / _LOCATION)


def _refused(root: Path) -> Unavailable:
    return Unavailable(
        "postgres_root_refused",
        f"PostgreSQL refuses to run as root, and no other user can be given access to {root}.",
        field="STEMMA_HOME",
        hint="Run Stemma as an ordinary user, install util-linux (setpriv), or set STEMMA_DATABASE_URL.",
    )
