"""Files that the studio writes: a local folder by default, any fsspec store (`s3://` and the like) by
setting.

A file appears whole or not at all, and a failed write leaves the last good version. What a file means, and
where user files come from, is the business of the capability that owns the key.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Self, cast

from stemma.errors import Conflict, InvalidInput, NotFound, Unavailable
from stemma.store.outputs import record_file
from stemma.store.settings import Settings

if TYPE_CHECKING:
    from upath import UPath

_BLOCK = 1 << 20
_KEY_BYTES = 1024
_SEGMENT_BYTES = 255
STAGING = ".incoming"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """What one write left: SHA-256 (hexadecimal) and size in bytes of the whole file."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One entry of a listing; size in bytes."""

    key: str
    size: int


def check_key(key: str) -> tuple[str, ...]:
    """The segments of a file key.

    A key is 1 to 1024 bytes of UTF-8 in segments joined by `/`, each at most 255 bytes, none empty, `.`,
    `..` or the name of the staging folder, without control characters and backslashes. Raises
    InvalidInput(field="key") for any other, which could leave or confuse the store.
    """
    try:
        encoded = key.encode()
    except UnicodeEncodeError as error:
        raise _bad_key("holds characters that UTF-8 cannot encode") from error
    if not 0 < len(encoded) <= _KEY_BYTES:
        raise _bad_key(f"must have 1 to {_KEY_BYTES} bytes")
    if any(ord(character) < 32 or character in "\\\x7f" for character in key):
        raise _bad_key("holds a control character or a backslash")
    segments = tuple(key.split("/"))
    if any(segment in ("", ".", "..", STAGING) for segment in segments):
        raise _bad_key("has an empty, `.`, `..` or reserved segment, or starts with /")
    if any(len(segment.encode()) > _SEGMENT_BYTES for segment in segments):
        raise _bad_key(f"has a segment of more than {_SEGMENT_BYTES} bytes")
    return segments


def _bad_key(problem: str) -> InvalidInput:
    return InvalidInput(
        "key_invalid",
        f"The file key {problem}.",
        field="key",
        hint="Write a relative path such as maps/roads.pmtiles.",
    )


def storage_error(error: OSError) -> Unavailable:
    """What the operating system said about a write, as `disk_full` or `storage_not_writable`."""
    if error.errno in _FULL:
        return Unavailable(
            "disk_full",
            "There is no room left on the disk; what was stored before is unchanged.",
            hint="Free some space, then try again.",
        )
    return Unavailable(
        "storage_not_writable",
        f"The file could not be stored: {error.strerror or error}.",
        hint="Check that the folder exists and that this user may write there.",
    )


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(error) from error


def read_local(path: Path) -> bytes:
    """The bytes of a file that a user named; raises NotFound, and Unavailable where it cannot be read."""
    try:
        return path.expanduser().read_bytes()
    except FileNotFoundError as error:
        raise NotFound("file_not_found", f"There is no file {path}.") from error
    except OSError as error:
        raise Unavailable("file_unreadable", f"{path} cannot be read: {error.strerror or error}.") from error


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file opened for reading, its size in bytes, and a name of this version of it, of letters, digits and dashes."""

    file: BinaryIO
    size: int
    version: str


class Staged:
    """A file being written in a folder's staging area; it becomes visible only by `replace` or `create`.

    Each method raises Unavailable (`disk_full`, `storage_not_writable`) where the file system refuses.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """SHA-256 (hexadecimal) of what was written so far."""
        return self._digest.hexdigest()

    def write(self, block: bytes) -> None:
        """Append bytes."""
        with _storage_errors():
            self._file.write(block)
        self._digest.update(block)
        self.size += len(block)

    def flush(self) -> None:
        """Bring the bytes to the disk, so that a name can be given to them."""
        with _storage_errors():
            self._file.flush()
            os.fsync(self._file.fileno())

    def replace(self, final: Path) -> None:
        """Give the file its name, in place of a file that had it; raises Conflict where a folder has it."""
        with _storage_errors():
            try:
                make_folders(final.parent)
                self.path.replace(final)
            except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
                raise Conflict(
                    "name_is_folder",
                    f"{final.name} and an existing name would be a file and a folder at once.",
                    field="key",
                ) from error
            sync_folder(final.parent)

    def create(self, final: Path) -> bool:
        """Give the file its name unless something has it already; says whether it did."""
        with _storage_errors():
            try:
                os.link(self.path, final)
            except FileExistsError:
                return False
            sync_folder(final.parent)
            return True


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Staged]:
    """Open a file in `folder`'s staging area, on the same file system as its later name; leaves no litter
    behind.

    What a killed process left there is removed: a living writer holds a lock on its file, a dead one does
    not. Raises Unavailable where the file system refuses.
    """
    staging = folder / STAGING
    with _storage_errors():
        make_folders(staging)
        _remove_abandoned(staging)
        path, file = _locked_file(staging)
    try:
        yield Staged(path, file)
    finally:
        path.unlink(missing_ok=True)
        # Bytes still buffered are of no use any more, and on a full disk closing would fail on them.
        with contextlib.suppress(OSError):
            file.close()


def _locked_file(staging: Path) -> tuple[Path, IO[bytes]]:
    while True:
        path = staging / uuid.uuid4().hex
        file = path.open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        # Between its creation and the lock, another process may have taken the file for an abandoned one.
        if os.fstat(file.fileno()).st_nlink:
            return path, file
        file.close()


def _remove_abandoned(staging: Path) -> None:
    for path in staging.iterdir():
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def make_folders(folder: Path) -> None:
    """Create a folder and its missing parents so that they outlast a power cut."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk: a rename is durable only after this."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FileStore:
    """Files by key under one base.

    Safe among threads and processes: of two writers of a key, one whole file remains.
    """

    def __init__(self, base: UPath | Path | str) -> None:
        """Raises InvalidInput for a URL whose kind of store is unknown or not installed."""
        self._remote: Any = None
        self._folder: Path | None = None
        if isinstance(base, Path):
            self._folder = base
            return
        # Most stores are folders, and fsspec takes a while to import.
        from upath import UPath

        try:
            opened = UPath(base)
            if opened.protocol in ("", "file", "local"):
                self._folder = Path(opened.path)
            else:
                self._root, self._remote = opened.path, opened.fs
        except (ImportError, ValueError) as error:
            raise InvalidInput(
                "files_url_unsupported",
                f"The file store cannot be opened: {error}.",
                field="STEMMA_FILES_URL",
                hint="Name a folder, or install the fsspec package of that store (s3fs for s3://).",
            ) from error

    @classmethod
    def open_default(cls, settings: Settings) -> Self:
        """The store that the settings name: `files_url`, else `home/files`."""
        return cls(settings.files_url or settings.home / "files")

    def write(self, key: str, data: bytes | BinaryIO) -> WrittenFile:
        """Store bytes, or a stream read to its end, under a key, in place of what was there.

        Raises InvalidInput for a bad key, Conflict where a folder has the name, Unavailable (`disk_full`,
        `storage_not_writable`) when the store refuses; an error of the stream passes through. After any of
        these the last good version is there unchanged.
        """
        segments = check_key(key)
        stream = io.BytesIO(data) if isinstance(data, bytes) else data
        if self._folder is None:
            written = self._write_remote(key, stream)
        else:
            written = self._write_local(key, self._folder.joinpath(*segments), stream)
        record_file(written.key, written.sha256, written.size)
        return written

    def _write_local(self, key: str, final: Path, stream: BinaryIO) -> WrittenFile:
        assert self._folder is not None
        with staged(self._folder) as file:
            _copy(stream, file)
            file.replace(final)
            return WrittenFile(key, file.sha256, file.size)

    def _write_remote(self, key: str, stream: BinaryIO) -> WrittenFile:
        # An object store publishes what it has when an error closes the writer: only a complete file is sent.
        with tempfile.TemporaryDirectory() as folder, staged(Path(folder)) as file:
            _copy(stream, file)
            with _storage_errors():
                self._remote.put_file(str(file.path), self._path(key))
            return WrittenFile(key, file.sha256, file.size)

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key}"

    def open(self, key: str) -> BinaryIO:
        """Open a file for reading; raises NotFound, and InvalidInput for a bad key."""
        segments = check_key(key)
        try:
            if self._folder is not None:
                return self._folder.joinpath(*segments).open("rb")
            return cast(BinaryIO, self._remote.open(self._path(key), "rb"))
        except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
            raise NotFound("file_not_found", f"There is no file {key}.", field="key") from error

    def open_versioned(self, key: str) -> OpenFile:
        """Open a file whose parts may be read; raises NotFound, and InvalidInput for a bad key."""
        file = self.open(key)
        if self._folder is not None:
            status = os.fstat(file.fileno())
            return OpenFile(file, status.st_size, f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}")
        path = self._path(key)
        return OpenFile(file, int(self._remote.info(path)["size"]), str(self._remote.ukey(path)))

    def read(self, key: str) -> bytes:
        """The whole content of a file; raises NotFound, and InvalidInput for a bad key."""
        with self.open(key) as file:
            return file.read()

    @contextlib.contextmanager
    def on_this_machine(self, key: str) -> Iterator[Path]:
        """A file by a path, for as long as the block lasts: itself where the store is a folder, else a copy.

        Raises NotFound, and InvalidInput for a bad key.
        """
        with self.open(key) as file, contextlib.ExitStack() as stack:
            if self._folder is not None:
                yield self._folder / key
                return
            path = Path(stack.enter_context(tempfile.TemporaryDirectory()), key.rpartition("/")[2])
            with path.open("wb") as copy:
                shutil.copyfileobj(file, copy, _BLOCK)
            yield path

    def exists(self, key: str) -> bool:
        """Whether a file, not a folder, has this key; raises InvalidInput for a bad key."""
        segments = check_key(key)
        if self._folder is not None:
            return self._folder.joinpath(*segments).is_file()
        return bool(self._remote.isfile(self._path(key)))

    def delete(self, key: str) -> bool:
        """Remove a file and say whether there was one.

        Raises InvalidInput for a bad key, Unavailable when the store refuses.
        """
        if not self.exists(key):
            return False
        with _storage_errors():
            if self._folder is None:
                # `fs.rm` would take `*` and `?` in a key for a pattern.
                self._remote.rm_file(self._path(key))
            else:
                final = self._folder / key
                final.unlink(missing_ok=True)
                sync_folder(final.parent)
        return True

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """The files in the folder `prefix` and below it (all without one), in the order of their keys."""
        if prefix:
            check_key(prefix)
        entries = self._list_remote(prefix) if self._folder is None else self._list_local(self._folder, prefix)
        yield from sorted(entries, key=lambda entry: entry.key)

    def _list_local(self, folder: Path, prefix: str) -> Iterator[StoredFile]:
        for parent, names, files in os.walk(folder / prefix):
            names[:] = [name for name in names if name != STAGING]
            for name in files:
                path = Path(parent) / name
                with contextlib.suppress(FileNotFoundError):
                    yield StoredFile(path.relative_to(folder).as_posix(), path.stat().st_size)

    def _list_remote(self, prefix: str) -> Iterator[StoredFile]:
        root = self._path(prefix) if prefix else self._root
        strip = len(self._path(""))
        for path, info in self._remote.find(root, detail=True).items():
            if not prefix or path.startswith(f"{root}/"):
                yield StoredFile(path[strip:], int(info["size"]))


def _copy(stream: BinaryIO, file: Staged) -> None:
    while block := stream.read(_BLOCK):
        file.write(block)
    file.flush()
