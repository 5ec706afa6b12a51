"""Versions are ordered as semver.org says, and references find the newest stable one that fits."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.errors import InvalidInput
from stemma.registry.references import Reference, parse_reference
from stemma.registry.semver import Version, parse_version

# Item 11 of the specification, and some that are easily got wrong.
ASCENDING = [
    "0.0.1", "0.1.0-alpha", "0.1.0", "1.0.0-0", "1.0.0-2", "1.0.0-10", "1.0.0-alpha", "1.0.0-alpha.1",
    "1.0.0-alpha.1.0", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0",
    "1.0.2", "1.0.10", "1.2.0", "1.10.0", "2.0.0", "10.0.0",
]  # fmt: skip

numbers = st.integers(0, 30)
identifiers = st.one_of(numbers.map(str), st.text("0aZ-", max_size=3).map("-".__add__))
versions = st.builds(
    Version, numbers, numbers, numbers, st.lists(identifiers, max_size=3).map(".".join),
    st.lists(st.text("0aZ-", min_size=1, max_size=4), max_size=2).map(".".join),
)  # fmt: skip


def test_precedence_is_that_of_the_specification() -> None:
    parsed = [parse_version(text) for text in ASCENDING]
    assert all(low < high and high > low and low != high for low, high in itertools.combinations(parsed, 2))


@given(versions)
def test_a_version_is_read_as_it_was_written(version: Version) -> None:
    again = parse_version(str(version))
    assert str(again) == str(version) and again == version and hash(again) == hash(version)


@given(versions, versions, versions)
def test_precedence_is_a_total_order_that_ignores_builds(a: Version, b: Version, c: Version) -> None:
    assert sum((a < b, a == b, a > b)) == 1
    assert not (a <= b and b <= c) or a <= c
    assert Version(a.major, a.minor, a.patch, a.prerelease) == a


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.2", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3-a..b", "1.2.3+", "v1.2.3", "1.2.3 ", "1.2.3\n", "١.2.3",
     "1.2.-3", "1.2.3-é", f"1.2.{2**53}", "1.2.3-" + "a" * 60],
)  # fmt: skip
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"no version"):
        parse_version(text)


@given(st.lists(versions, max_size=12), numbers, numbers)
def test_an_alias_fits_stable_versions_of_its_numbers_alone(known: list[Version], major: int, minor: int) -> None:
    for reference in ("a", "a@latest", f"a@{major}", f"a@{major}.{minor}"):
        for version in known:
            wanted = reference.partition("@")[2].replace("latest", "")
            fits = version.is_stable and f"{version}.".startswith(f"{wanted}." if wanted else "")
            assert parse_reference(reference).fits(version) == fits


@given(versions)
def test_a_full_version_is_meant_exactly(version: Version) -> None:
    reference = parse_reference(f"finance.discounts@{version}")
    assert reference == Reference("finance.discounts", version) and str(reference) == f"finance.discounts@{version}"
    assert reference.fits(version)


@pytest.mark.parametrize(
    "text", ["", "@1", "_A", "a@", "a@1.", "a@1.2.3.4", "a@01", "a b", "a..b", "a@x", "é", "a" * 101]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_reference(text)
