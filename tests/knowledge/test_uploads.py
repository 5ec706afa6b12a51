from __future__ import annotations

import io
import subprocess
import sys
import textwrap
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.access.principal import local_principal
from stemma.errors import Conflict, InvalidInput, Unavailable
from stemma.knowledge.sources import is_passed_over
from stemma.knowledge.uploads import Upload, check_name, record_upload, store_upload
from stemma.ledger.entries import draft
from stemma.store.settings import Settings


@pytest.fixture
def studio(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def in_inbox(settings: Settings) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in settings.inbox.rglob("*") if path.is_file()}


@given(st.text(max_size=30) | st.sampled_from(["a/b", "..", ".x", "a\0b", "x.part", "~$x", "é" * 120]))
def test_an_accepted_name_is_one_visible_file_of_the_inbox(name: str) -> None:
    try:
        accepted = check_name(name)
    except InvalidInput as error:
        assert error.field == "file"
        return
    assert Path("/inbox", accepted).parent == Path("/inbox")
    assert not is_passed_over(accepted)
    assert check_name(accepted) == accepted
    row, transition = record_upload(
        local_principal(), Upload(accepted, "inbox", accepted, "0" * 64, 1, "created")
    ).entries
    assert draft(row).entry.data["meta"]["name"] == draft(transition).entry.data["name"] == accepted


def test_two_spellings_of_one_name_are_one_file(studio: Settings) -> None:
    composed = store_upload("Größe.md", io.BytesIO(b"# A"), studio)
    decomposed = store_upload(unicodedata.normalize("NFD", "Größe.md"), io.BytesIO(b"# A"), studio)
    assert (composed.name, decomposed.name) == ("Größe.md", "Größe.md")
    assert decomposed.status == "unchanged"


def test_a_sender_that_breaks_off_leaves_the_old_file(studio: Settings) -> None:
    class Broken(io.RawIOBase):
        reads = 0

        def read(self, size: int = -1) -> bytes:
            self.reads += 1
            if self.reads > 1:
                raise ConnectionResetError
            return b"half"

    store_upload("a.md", io.BytesIO(b"# A"), studio)
    with pytest.raises(ConnectionResetError):
        store_upload("a.md", Broken(), studio, replace=True)  # type: ignore[arg-type]
    assert in_inbox(studio) == {"a.md": b"# A"}


@pytest.mark.parametrize("replace", [False, True])
def test_many_at_once_leave_one_whole_file(studio: Settings, replace: bool) -> None:
    contents = [bytes([letter]) * 200_000 for letter in b"abcdefghijkl"]

    def put(data: bytes) -> str:
        try:
            return store_upload("a.txt", io.BytesIO(data), studio, replace=replace).status
        except Conflict:
            return "refused"

    with ThreadPoolExecutor(6) as threads:
        statuses = list(threads.map(put, contents))
    assert statuses.count("created") == 1
    assert set(statuses) == {"created", "replaced" if replace else "refused"}
    (final,) = in_inbox(studio).values()
    assert final in contents
    if not replace:
        assert final == contents[statuses.index("created")]


UPLOAD_UNDER_A_LIMIT = """
    import io, resource, sys
    from pathlib import Path
    from stemma.errors import Unavailable
    from stemma.knowledge.uploads import store_upload
    from stemma.store.settings import Settings
    settings = Settings(home=Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        store_upload("a.txt", io.BytesIO(b"x" * 3_000_000), settings, replace=True)
    except Unavailable as error:
        sys.exit(error.code)
"""


def test_a_full_disk_leaves_the_old_file(studio: Settings) -> None:
    store_upload("a.txt", io.BytesIO(b"old"), studio)
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(UPLOAD_UNDER_A_LIMIT), str(studio.home)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (child.returncode, child.stderr.strip()) == (1, "disk_full")
    assert in_inbox(studio) == {"a.txt": b"old"}


def test_an_inbox_that_cannot_be_made_is_a_typed_error(studio: Settings) -> None:
    studio.inbox.write_bytes(b"a file where the folder should be")
    with pytest.raises(Unavailable) as caught:
        store_upload("a.md", io.BytesIO(b"# A"), studio)
    assert caught.value.code == "storage_not_writable"
