"""`@product`: every asset gets a receipt without a word about it, and none passes without what a receipt needs."""

import hashlib
from collections.abc import Callable, Iterator

import dagster as dg
import pytest

import definitions
from assets.failures import domain_error
from assets.product import PRODUCT_TAG, product
from resources.instance import open_instance
from resources.materializations import issue_receipts
from stemma.errors import CheckFailed, Conflict
from stemma.ledger.receipt_catalog import newest_receipt, read_tree
from stemma.ledger.receipts import Receipt
from stemma.runs.model import ACTOR_TAG
from stemma.store import outputs
from stemma.store.database import Database
from stemma.store.files import FileStore
from stemma.store.settings import Settings, load_settings

PARTS = dg.StaticPartitionsDefinition(["a", "b"])


def written(text: str) -> dg.MaterializeResult[None]:
    """Write a file and say its version."""
    FileStore.open_default(load_settings()).write("new/thing.txt", text.encode())
    return dg.MaterializeResult(data_version=dg.DataVersion(text))


def new_asset(
    body: Callable[[], dg.MaterializeResult[None]], key: tuple[str, str] = ("new", "thing"), **options: object
) -> dg.AssetsDefinition:
    """An asset as somebody adds one who never heard of receipts."""

    @product(key=key, code_version="7", kinds={"python"}, description="New", **options)
    def thing(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        assert context.asset_key.path[-1] == key[1]
        return body()

    return thing


@pytest.fixture
def settings(studio: tuple[Settings, Database]) -> Settings:
    return studio[0]


@pytest.fixture
def database(studio: tuple[Settings, Database]) -> Database:
    return studio[1]


@pytest.fixture(scope="module")
def instance(studio: tuple[Settings, Database]) -> Iterator[dg.DagsterInstance]:
    with open_instance(studio[0], studio[1].urls) as opened:
        yield opened


def receipt_of(database: Database, asset: str, partition: str | None = None) -> Receipt:
    return database.read(lambda connection: newest_receipt(connection, asset, partition))


def refusal(result: dg.ExecuteInProcessResult) -> CheckFailed:
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    error = domain_error(failure.step_failure_data.user_failure_data.metadata, step="thing")
    assert isinstance(error, CheckFailed)
    return error


def test_a_new_asset_gets_a_receipt_with_no_word_about_it(
    instance: dg.DagsterInstance, database: Database, settings: Settings
) -> None:
    result = dg.materialize([new_asset(lambda: written("hello"))], instance=instance, tags={ACTOR_TAG: "local:ada"})
    assert issue_receipts(instance, database, settings).written == 1
    receipt = receipt_of(database, "new/thing")
    assert (receipt.run_id, receipt.data_version, receipt.code_version) == (result.run_id, "hello", "7")
    assert receipt.artifacts == (
        outputs.Artifact("new/thing.txt", "text/plain", hashlib.sha256(b"hello").hexdigest(), 5),
    )
    assert receipt.actor == "local:ada" and receipt.seconds is not None and receipt.cost_usd == 0
    (event,) = result.asset_materializations_for_node("new__thing")
    assert str(receipt.id) in str(event.metadata["receipt"].value)
    assert event.metadata["receipt_command"].value == "stemma receipt show new/thing"


def test_without_a_data_version_the_step_fails_at_once(instance: dg.DagsterInstance) -> None:
    def body() -> dg.MaterializeResult[None]:
        written("hello")
        return dg.MaterializeResult()

    result = dg.materialize([new_asset(body)], instance=instance, raise_on_error=False)
    assert refusal(result).code == "data_version_missing"
    assert not result.asset_materializations_for_node("new__thing")
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_without_an_output_hash_the_step_fails_at_once(instance: dg.DagsterInstance) -> None:
    result = dg.materialize(
        [new_asset(lambda: dg.MaterializeResult(data_version=dg.DataVersion("1")))],
        instance=instance,
        raise_on_error=False,
    )
    assert refusal(result).code == "output_hash_missing"
    assert not result.asset_materializations_for_node("new__thing")


def test_a_domain_error_fails_the_step_as_it_is(instance: dg.DagsterInstance) -> None:
    def body() -> dg.MaterializeResult[None]:
        raise CheckFailed("page_torn", "A page is torn.", hint="Mend it.")

    assert refusal(dg.materialize([new_asset(body)], instance=instance, raise_on_error=False)).code == "page_torn"


def test_partitions_name_the_newest_of_their_inputs_as_the_step_found_them(
    instance: dg.DagsterInstance, database: Database, settings: Settings
) -> None:
    page = new_asset(lambda: written("page"), ("new", "page"), partitions_def=PARTS)
    line = new_asset(lambda: written("line"), ("new", "line"), partitions_def=PARTS, deps=[page])
    book = new_asset(lambda: written("book"), ("new", "book"), deps=[line])
    runs = {}
    for partition in ("a", "b", "a"):
        runs[partition] = dg.materialize([page, line], instance=instance, partition_key=partition).run_id
    dg.materialize([page, line, book], selection=[book], instance=instance)
    assert issue_receipts(instance, database, settings).written == 7
    made = receipt_of(database, "new/book")
    assert [(i.asset, i.partition, i.data_version) for i in made.inputs] == [
        ("new/line", "a", "line"),
        ("new/line", "b", "line"),
    ]
    assert made.inputs[0].receipt == receipt_of(database, "new/line", "a").id
    tree = database.read(lambda connection: read_tree(connection, made.id))
    assert [(line.inputs[0].receipt.subject, line.inputs[0].receipt.run_id) for line in tree.inputs] == [
        ("new/page[a]", runs["a"]),
        ("new/page[b]", runs["b"]),
    ]


def test_an_input_that_was_never_materialized_is_named(
    instance: dg.DagsterInstance, database: Database, settings: Settings
) -> None:
    page = new_asset(lambda: written("page"), ("new", "cover"))
    book = new_asset(lambda: written("book"), ("new", "case"), deps=[page])
    dg.materialize([page, book], selection=[book], instance=instance)
    issue_receipts(instance, database, settings)
    (found,) = receipt_of(database, "new/case").inputs
    assert (found.asset, found.data_version, found.receipt) == ("new/cover", None, None)


def test_every_asset_of_ours_is_a_product() -> None:
    graph = definitions.build_defs().resolve_asset_graph()
    others = [key for key in graph.materializable_asset_keys if PRODUCT_TAG not in graph.get(key).tags]
    assert others == []


def test_an_unchanged_file_has_the_same_hash_and_the_last_word_counts(settings: Settings) -> None:
    store = FileStore.open_default(settings)
    with outputs.collected() as first:
        store.write("a.txt", b"one")
        store.write("a.txt", b"two")
    with outputs.collected() as again, outputs.collected() as inner:
        store.write("a.txt", b"two")
    store.write("b.txt", b"nobody listens")
    assert first.written == inner.written and again.written == {}
    assert first.written["a.txt"].sha256 == hashlib.sha256(b"two").hexdigest()


def test_a_failed_write_records_nothing(settings: Settings) -> None:
    store = FileStore.open_default(settings)
    store.write("taken/a.txt", b"one")
    with outputs.collected() as told, pytest.raises(Conflict):
        store.write("taken", b"two")
    assert told.written == {}
