"""The vendored libraries: what `vendor.json` says of them, and copying them anew from npm (`make vendor`).

Every file is pinned by its package's exact version and its own SHA-256; nobody who only uses the console needs npm.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from api.console.files import FOLDER
from stemma.errors import CheckFailed, StemmaError, Unavailable

VENDOR: Final = FOLDER / "vendor"
MANIFEST: Final = VENDOR / "vendor.json"

_SECONDS = 120


@dataclass(frozen=True, slots=True)
class VendoredFile:
    """A file as it lies in the folder, and where it stands in its package."""

    name: str
    package_path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Library:
    """A package of npm with the files that are taken from it."""

    name: str
    version: str
    licence: str
    files: tuple[VendoredFile, ...]


def libraries() -> tuple[Library, ...]:
    """What the manifest names."""
    return tuple(
        Library(
            one["name"],
            one["version"],
            one["licence"],
            tuple(VendoredFile(file["name"], file["from"], file["sha256"]) for file in one["files"]),
        )
        for one in json.loads(MANIFEST.read_text())
    )


def check() -> None:
    """Raises CheckFailed where a file is not what the manifest says, is missing, or is in no manifest."""
    wanted = {file.name: file.sha256 for library in libraries() for file in library.files}
    present = {path.name: _sha256(path.read_bytes()) for path in VENDOR.iterdir() if path != MANIFEST}
    wrong = sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))
    if wrong:
        what = f"Not as vendor.json says: {', '.join(wrong)}."
        raise CheckFailed("vendor_differs", what, hint="Run `make vendor`, or correct vendor.json.")


def copy() -> None:
    """Take every file from its package; raises Unavailable without npm, CheckFailed for a file with another hash."""
    for library in libraries():
        content = packed(library.name, library.version, [file.package_path for file in library.files])
        for file in library.files:
            if _sha256(content[file.package_path]) != file.sha256:
                what = f"{file.package_path} of {library.name} {library.version} has another SHA-256 than vendor.json."
                raise CheckFailed("vendor_differs", what)
            (VENDOR / file.name).write_bytes(content[file.package_path])


def packed(name: str, version: str, paths: Sequence[str]) -> dict[str, bytes]:
    """Files of a package of npm, by their path in it; raises Unavailable without npm, CheckFailed for a missing one."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--pack-destination", folder, f"{name}@{version}"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            what = f"npm did not give {name} {version}."
            raise Unavailable("npm_unavailable", what, hint="Is npm installed, and its registry reachable?") from error
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as opened:
            found = {}
            for path in paths:
                member = opened.extractfile(f"package/{path}")
                if member is None:
                    raise CheckFailed("vendor_differs", f"{name} has no file {path}.")
                found[path] = member.read()
            return found


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    try:
        copy()
        check()
    except StemmaError as error:
        sys.exit(str(error))
