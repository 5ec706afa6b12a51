from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.errors import Conflict, InvalidInput, NotFound, Unavailable
from stemma.store.files import STAGING, FileStore, check_key, staged
from stemma.store.settings import Settings

STORES = ["local", "memory"]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "files" if request.param == "local" else f"memory://{tmp_path.name}/files")


class BrokenStream(io.RawIOBase):
    """Gives some bytes, then fails as a lost connection does."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self, size: int = -1) -> bytes:
        self.reads += 1
        if self.reads > 2:
            raise ConnectionResetError("the sender went away")
        return b"x" * 1000


def litter(folder: Path) -> list[str]:
    return [path.name for path in (folder / STAGING).glob("*")]


def test_a_file_has_a_path_on_this_machine_wherever_it_is_kept(store: FileStore) -> None:
    store.write("maps/roads.pmtiles", b"tiles")
    with store.on_this_machine("maps/roads.pmtiles") as path:
        assert (path.name, path.read_bytes()) == ("roads.pmtiles", b"tiles")
    with pytest.raises(NotFound), store.on_this_machine("maps/none.pmtiles"):
        pytest.fail("it was opened")
    assert [file.key for file in store.list()] == ["maps/roads.pmtiles"]


def test_what_was_written_is_read_back_with_its_hash(store: FileStore) -> None:
    data = os.urandom(3_000_000)
    written = store.write("maps/eu/roads.pmtiles", io.BytesIO(data))
    assert written.sha256 == hashlib.sha256(data).hexdigest()
    assert written.size == len(data)
    assert store.read("maps/eu/roads.pmtiles") == data
    assert store.write("maps/eu/roads.pmtiles", b"new").size == 3
    assert store.read("maps/eu/roads.pmtiles") == b"new"


def test_listing_and_deleting(store: FileStore) -> None:
    for key in ("b/2", "a", "b/1", "bc", "b/*"):
        store.write(key, key.encode())
    assert [(file.key, file.size) for file in store.list()] == [
        ("a", 1),
        ("b/*", 3),
        ("b/1", 3),
        ("b/2", 3),
        ("bc", 2),
    ]
    assert [file.key for file in store.list("b")] == ["b/*", "b/1", "b/2"]
    assert store.delete("b/*")
    assert not store.delete("b/*")
    assert [file.key for file in store.list("b")] == ["b/1", "b/2"]
    assert not store.exists("b")
    assert list(store.list("nothing/here")) == []


def test_a_missing_file_is_a_typed_error(store: FileStore) -> None:
    store.write("folder/file", b"x")
    for key in ("nothing", "folder", "folder/file/below"):
        with pytest.raises(NotFound) as caught:
            store.read(key)
        assert (caught.value.code, caught.value.field) == ("file_not_found", "key")


def test_a_failing_stream_leaves_the_last_good_version(store: FileStore) -> None:
    store.write("report", b"good")
    with pytest.raises(ConnectionResetError):
        store.write("report", BrokenStream())
    assert store.read("report") == b"good"
    assert [file.key for file in store.list()] == ["report"]


def test_a_failed_write_leaves_no_litter(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError):
        FileStore(tmp_path).write("report", BrokenStream())
    assert litter(tmp_path) == []


def test_one_name_cannot_be_file_and_folder(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.write("a/b", b"x")
    for key in ("a", "a/b/c"):
        with pytest.raises(Conflict) as caught:
            store.write(key, b"y")
        assert caught.value.code == "name_is_folder"
    assert store.read("a/b") == b"x"
    assert litter(tmp_path) == []


WRITE_UNDER_A_LIMIT = """
    import resource, sys
    from stemma.errors import Unavailable
    from stemma.store.files import FileStore
    store = FileStore(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        store.write("report", b"x" * 5_000_000)
    except Unavailable as error:
        sys.exit(error.code)
"""


def test_a_full_disk_leaves_the_last_good_version(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.write("report", b"good")
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WRITE_UNDER_A_LIMIT), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (child.returncode, child.stderr.strip()) == (1, "disk_full")
    assert store.read("report") == b"good"
    assert litter(tmp_path) == []


def test_a_base_that_is_a_file_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"")
    with pytest.raises(Unavailable) as caught:
        FileStore(tmp_path / "base").write("report", b"x")
    assert caught.value.code == "storage_not_writable"


WRITE_AND_HANG = """
    import sys, time
    from stemma.store.files import staged
    from pathlib import Path
    with staged(Path(sys.argv[1])) as file:
        file.write(b"x" * 2_000_000)
        print("half", flush=True)
        time.sleep(600)
"""


def test_a_killed_writer_changes_nothing_and_its_leavings_are_removed(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.write("report", b"good")
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITE_AND_HANG), str(tmp_path)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"half\n"
        store.write("other", b"x")
        assert len(litter(tmp_path)) == 1, "a living writer's file must stay"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert store.read("report") == b"good"
    store.write("other", b"y")
    assert litter(tmp_path) == []


def test_concurrent_writers_leave_one_whole_file(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    contents = [bytes([letter]) * 300_000 for letter in b"abcdefgh"]
    threads = [threading.Thread(target=store.write, args=("report", content)) for content in contents]
    for thread in threads:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in threads):
        if store.exists("report"):
            seen.add(store.read("report"))
    for thread in threads:
        thread.join()
    assert store.read("report") in contents
    assert seen <= set(contents)
    assert litter(tmp_path) == []


def test_creating_does_not_replace(tmp_path: Path) -> None:
    final = tmp_path / "notes.md"
    with staged(tmp_path) as first, staged(tmp_path) as second:
        first.write(b"first")
        second.write(b"second")
        first.flush()
        second.flush()
        assert second.create(final)
        assert not first.create(final)
    assert final.read_bytes() == b"second"
    assert litter(tmp_path) == []


@pytest.mark.parametrize(
    "key",
    [
        *("", "/etc/passwd", "../up", "a/../b", "a//b", "a/", "./a"),
        *("a\0b", "a\nb", "a\\b", "\ud800", "a/.incoming/b"),
        *("x" * 256, "é" * 128, "/".join(["x" * 200] * 6)),
    ],
)
def test_bad_keys_are_refused_by_every_operation(store: FileStore, key: str) -> None:
    for operation in (store.read, store.open, store.exists, store.delete, lambda key: store.write(key, b"")):
        with pytest.raises(InvalidInput) as caught:
            operation(key)
        assert (caught.value.code, caught.value.field) == ("key_invalid", "key")


@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "", "a", "\0", "é"])).map("/".join))
def test_an_accepted_key_stays_inside_the_base(key: str) -> None:
    try:
        segments = check_key(key)
    except InvalidInput:
        return
    base = Path("/base")
    path = Path(os.path.normpath(base.joinpath(*segments)))
    assert path.relative_to(base).as_posix() == key
    assert "\0" not in key


_SEGMENT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=20
).filter(lambda segment: segment not in (".", "..", STAGING))


@pytest.mark.parametrize("kind", STORES)
@given(segments=st.lists(_SEGMENT, min_size=1, max_size=3), data=st.binary(max_size=100))
def test_every_valid_key_comes_back(
    tmp_path_factory: pytest.TempPathFactory, kind: str, segments: list[str], data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("keys")
    store = FileStore(folder if kind == "local" else f"memory://{folder.name}")
    key = "/".join(segments)
    store.write(key, data)
    assert store.read(key) == data
    assert [file.key for file in store.list()] == [key]
    assert store.delete(key)
    assert list(store.list()) == []


def test_the_settings_choose_the_store(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    FileStore.open_default(settings).write("a/b", b"x")
    assert (settings.home / "files/a/b").read_bytes() == b"x"
    elsewhere = settings.model_copy(update={"files_url": str(tmp_path / "elsewhere")})
    FileStore.open_default(elsewhere).write("a", b"x")
    assert (tmp_path / "elsewhere/a").read_bytes() == b"x"


def test_an_unknown_kind_of_store_is_a_typed_error() -> None:
    with pytest.raises(InvalidInput) as caught:
        FileStore("gopher://example.org/files")
    assert (caught.value.code, caught.value.field) == ("files_url_unsupported", "STEMMA_FILES_URL")
