from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.agents.memory import catalog, distilling, recalling, storing
from stemma.agents.memory.distilling import Episode, distil, sentences, sync_facts, ungrounded
from stemma.agents.memory.model import MAX_TEXT, MOST_PINNED
from stemma.agents.memory.vectors import Encoder
from stemma.agents.model import Agent
from stemma.errors import Conflict, Forbidden, InvalidInput, NotFound

Noon = Callable[[int], datetime]


def test_what_is_near_is_recalled_with_where_it_is_from(mind: Any) -> None:
    invoices = mind.give("Invoices are sent to customers on the first day of each month.")
    mind.give("The office plants are watered on Fridays.", tier="vector")
    (first, *_) = mind.recall("When do customers get their bills?")
    assert (first.id, first.tier, first.text) == (invoices.id, "semantic", invoices.text)
    assert first.source.startswith("told by key:ada on ")
    assert mind.texts("quantum chromodynamics of gluons") == []


def test_a_call_leaves_its_words_and_a_summary(mind: Any, make_agent: Callable[..., Agent]) -> None:
    job = mind.talk("Who bakes the bread?", "Bob bakes it, at five in the morning.")
    episode, turn = mind.listed()
    assert (turn.tier, turn.text) == (
        "short_term", "Asked: Who bakes the bread?\nAnswered: Bob bakes it, at five in the morning.",
    )  # fmt: skip
    assert (episode.tier, episode.source) == ("episodic", {"kind": "call", "job": str(job), "request": "r"})
    assert turn.expires_at is not None and turn.expires_at - turn.created_at > timedelta(days=89)
    recalled = mind.recall("At what time is the bread baked?")
    assert [one.tier for one in recalled] == ["episodic", "short_term"]
    assert recalled[0].source.startswith(f"call {job} of ")
    silent = make_agent(tiers=["semantic"])
    mind.talk("And now?", "Nothing.", agent=silent)
    assert len(mind.listed()) == 2 and mind.recall("bread", agent=silent) == []


def test_summaries_are_looked_at_as_far_back_as_is_said(mind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fact = mind.give("Bread is baked at five in the morning.")
    for baker in ("Bob", "Eve"):
        mind.talk(f"Who bakes the bread on {baker}'s day?", f"{baker} bakes the bread, at five in the morning.")

    def near() -> set[str]:
        found = mind.recall("Who bakes the bread at five?")
        return {one.text for one in found if one.tier in ("episodic", "semantic")}

    assert len(near()) == 3
    monkeypatch.setattr(recalling, "MOST_EPISODES", 1)
    assert fact.text in near() and len(near()) == 2 and any("Eve" in text for text in near())


def test_the_last_turns_are_kept_the_oldest_first(mind: Any, make_agent: Callable[..., Agent]) -> None:
    agent = make_agent(turns=2, top=0)
    for number in range(4):
        mind.talk(f"Question {number}?", f"Answer {number}.", agent=agent)
    assert [text.split("\n")[1] for text in mind.texts("x", agent=agent)] == [
        "Answered: Answer 2.",
        "Answered: Answer 3.",
    ]
    assert len(mind.listed(tier="short_term")) == 2 and len(mind.listed(tier="episodic")) == 4


def test_everybody_recalls_their_own_and_what_is_shared(mind: Any, another: Principal, operator: Principal) -> None:
    mind.give("Ada's birthday is in May.")
    mind.talk("When is my birthday?", "In May, Ada.")
    shared = mind.give("Everybody's birthday is celebrated with cake.", shared=True, by=operator)
    assert mind.texts("birthday", by=another) == [shared.text]
    assert [one.id for one in mind.listed(by=another)] == [shared.id]
    with pytest.raises(Forbidden):
        mind.give("Bob is the boss of everybody.", shared=True, by=another)
    with pytest.raises(Forbidden):
        mind.listed(by=another, owner="key:ada")
    assert len(mind.listed(by=operator, owner="key:ada")) == 3


def test_what_is_stored_was_redacted_before(mind: Any) -> None:
    mind.give("Write to ada@example.org, card 4111 1111 1111 1111.")
    mind.talk("I am bob@example.org.", "The key is sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCD.")
    kept = json.dumps([str(row) for row in mind.rows("SELECT m::text FROM agent_memories AS m")])
    for told in ("ada@", "4111", "bob@", "sk-proj"):
        assert told not in kept
    assert "[email]" in kept and "[secret]" in kept


def test_a_founder_s_call_is_not_remembered(mind: Any, founder: Principal) -> None:
    mind.talk("A secret?", "A secret.", by=founder)
    assert mind.rows("SELECT FROM agent_memories") == []


def test_pins_come_first_and_do_not_expire(mind: Any, noon: Noon) -> None:
    mind.talk("How tall is the tower?", "It is 300 metres tall.", at=datetime.now(UTC) - timedelta(days=200))
    assert mind.listed() == [] and mind.recall("tower") == []
    rule = mind.give("Answer in one sentence.", pinned=True, days=1)
    mind.give("The tower is closed today.", days=1)
    with mind.database.transaction() as connection:
        connection.execute("UPDATE agent_memories SET expires_at = now() - interval '1 hour'")
    assert [one.id for one in mind.listed()] == [rule.id]
    with mind.database.transaction() as connection:
        assert storing.expire(connection) == 1
    mind.give("The tower was built in 1889.")
    assert mind.texts("Tell me about the tower")[0] == rule.text
    unpinned = mind.commit(lambda c: storing.pin(c, rule_owner(), "mnemo", rule.id, pinned=False))
    assert not unpinned.pinned and rule.text not in mind.texts("Tell me about the tower")


def rule_owner() -> Principal:
    return Principal("key:ada", Role.BUILDER, frozenset({"agents:*"}))


def test_what_cannot_be_remembered_is_said(mind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, code in ((" \n", "memory_empty"), ("x" * (MAX_TEXT + 1), "memory_too_long"), ("a\0b", "text_invalid")):
        with pytest.raises(InvalidInput) as refused:
            mind.give(text)
        assert refused.value.code == code
    with pytest.raises(Forbidden):
        mind.give("A fact.", by=Principal("key:v", Role.VIEWER, frozenset({"agents:*"})))
    for _ in range(MOST_PINNED):
        mind.give("It is pinned.", pinned=True)
    with pytest.raises(Conflict):
        mind.give("It is pinned, too.", pinned=True)
    monkeypatch.setattr(storing, "MOST_GIVEN", MOST_PINNED)
    with pytest.raises(Conflict):
        mind.give("One more.")


def test_a_budget_is_kept(mind: Any) -> None:
    for number in range(6):
        mind.give(f"The lamp number {number} needs a bulb of {number} watts. " + "It shines. " * 20)
        mind.talk(f"What of lamp {number}?", "It shines. " * 30)
    for budget in (0, 50, 150, 400, 1200):
        recalled = mind.recall("Which bulb does the lamp need?", budget=budget)
        assert sum(len(one.text) for one in recalled) <= 4 * budget
        assert len({one.text for one in recalled}) == len(recalled)
    assert {one.tier for one in recalled} == {"semantic", "short_term"}


@examples(max_examples=200)
@given(st.lists(st.text(min_size=1, max_size=200), max_size=20), st.integers(0, 300))
def test_what_fits_is_within_the_budget(texts: list[str], budget: int) -> None:
    found = [_memory(text) for text in texts]
    kept, left = recalling._fitting(found, budget)
    assert left >= 0 and sum(len(one.text) // 4 for one in kept) <= budget
    assert len({one.text for one in kept}) == len(kept)
    assert [one for one in found if one in kept][: len(kept)] == kept


def _memory(text: str) -> Any:
    now = datetime.now(UTC)
    return catalog.Remembered(uuid4(), "a", "o", "semantic", text, {}, (), "o", now, None, None, None)


def test_forgetting_takes_what_was_distilled_with_it(mind: Any, another: Principal, noon: Noon) -> None:
    mind.talk("Where is the depot?", "The depot stands in Columbus, near the river.", at=noon(1))
    mind.talk("When does it open?", "The depot opens at seven in the morning.", at=noon(1))
    with_facts(mind, noon(1))
    depot, opens = sorted(mind.listed(tier="semantic"), key=lambda one: "opens" in one.text)
    (river,) = [one for one in mind.listed(tier="episodic") if "river" in one.text]
    assert depot.origins == (river.id,)
    with pytest.raises(NotFound):
        mind.commit(lambda c: storing.forget(c, another, "mnemo", river.id))
    mind.commit(lambda c: storing.forget(c, rule_owner(), "mnemo", river.id))
    assert [one.id for one in mind.listed(tier="semantic")] == [opens.id]
    with_facts(mind, noon(1))
    mind.commit(lambda c: storing.forget(c, rule_owner(), "mnemo", opens.id))
    with_facts(mind, noon(1))
    assert mind.listed(tier="semantic") == [], "a day of which something was forgotten is not distilled again"
    forgotten = mind.commit(lambda c: storing.forget_all(c, rule_owner(), "mnemo", owner="key:ada"))
    assert forgotten.memories == 3 and mind.rows("SELECT FROM agent_memories") == []


def test_one_tier_is_forgotten_and_others_stay(mind: Any, another: Principal, operator: Principal) -> None:
    mind.talk("A question?", "An answer.")
    mind.give("A fact.")
    shared = mind.give("A shared fact.", shared=True, by=operator)
    mind.commit(lambda c: storing.forget_all(c, rule_owner(), "mnemo", owner="key:ada", tier="short_term"))
    assert {one.tier for one in mind.listed()} == {"episodic", "semantic"}
    for owner in ("key:ada", None):
        with pytest.raises(Forbidden):
            mind.commit(lambda c, owner=owner: storing.forget_all(c, another, "mnemo", owner=owner))
    with pytest.raises(Forbidden):
        mind.commit(lambda c: storing.forget(c, another, "mnemo", shared.id))
    mind.commit(lambda c: storing.forget_all(c, operator, "mnemo", owner=None))
    assert [one.text for one in mind.listed(tier="semantic")] == ["A fact."]


def test_the_ledger_is_told_of_memories_and_never_what_is_in_them(mind: Any) -> None:
    fact = mind.give("The vault stands behind the mirror.", pinned=True)
    mind.commit(lambda c: storing.pin(c, rule_owner(), "mnemo", fact.id, pinned=False))
    mind.commit(lambda c: storing.forget(c, rule_owner(), "mnemo", fact.id))
    entries = mind.rows("SELECT kind, subject, convert_from(body, 'UTF8') FROM ledger ORDER BY chain, seq")
    assert {kind for kind, *_ in entries} == {
        "memory.given",
        "memory.pinned",
        "memory.unpinned",
        "memory.forgotten",
    } - {"memory.pinned"}
    assert all(subject == "agent:mnemo" and "mirror" not in body for _, subject, body in entries)


def with_facts(mind: Any, *days: datetime) -> distilling.Report:
    first, last = min(days).date(), max(days).date()
    report = sync_facts(mind.database, mind.keeper.encoder, first, last)
    assert mind.database.read(ungrounded) == ()
    return report


def test_a_day_is_distilled_once_into_facts_that_stand_in_it(mind: Any, another: Principal, noon: Noon) -> None:
    for number in range(3):
        mind.talk(f"Which port, {number}?", "The database listens on port 5432.", at=noon(2))
    mind.talk("What else?", "Backups are written every night to the second store. Why not?", at=noon(2))
    mind.talk("And mine?", "Bob prefers tea to coffee in the morning.", at=noon(2), by=another)
    first = with_facts(mind, noon(1), noon(3))
    assert {day: (made.made, made.facts) for day, made in first.days.items()} == {noon(2).date(): (2, 3)}
    facts = mind.listed(tier="semantic")
    (port,) = [one for one in facts if "5432" in one.text]
    assert len(port.origins) == 3 and port.owner == "key:ada" and port.source["day"] == noon(2).date().isoformat()
    assert not any("tea" in one.text or "Why" in one.text for one in facts)
    again = with_facts(mind, noon(1), noon(3))
    assert {day.version for day in again.days.values()} == {day.version for day in first.days.values()}
    assert [day.made for day in again.days.values()] == [0]
    mind.talk("More?", "Every index is rebuilt on Sunday evening.", at=noon(2))
    changed = with_facts(mind, noon(2))
    assert [day.made for day in changed.days.values()] == [1] and changed.days.values() != first.days.values()
    assert "5432" in mind.texts("On which port does Postgres listen?")[0]


def test_facts_outlive_their_episodes(mind: Any, noon: Noon) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=89)
    mind.talk("Where?", "The archive lies in the cellar of the old mill.", at=long_ago)
    with_facts(mind, long_ago)
    with mind.database.transaction() as connection:
        connection.execute("UPDATE agent_memories SET expires_at = now() - interval '1 day' WHERE tier <> 'semantic'")
    assert with_facts(mind, long_ago).expired == 2
    assert mind.texts("Where is the archive?") == ["The archive lies in the cellar of the old mill."]


def test_vectors_of_another_model_are_made_anew(mind: Any) -> None:
    fact = mind.give("A kettle boils water.")
    with mind.database.transaction() as connection:
        connection.execute("UPDATE agent_memories SET model_key = 'older'")
    assert mind.recall("kettle") == []
    today = datetime.now(UTC)
    assert with_facts(mind, today).embedded == 1
    assert mind.texts("What boils the water?") == [fact.text]


def test_without_an_encoder_what_is_near_is_not_known(settings: Any, database: Any, commit: Any) -> None:
    encoder = Encoder(settings)
    wanted = storing.Given("A fact.", pinned=True)
    commit(database.read(lambda c: storing.give(c, rule_owner(), "mnemo", wanted, encoder)))
    assert encoder.encode("anything") is None
    with pytest.raises(Exception, match="query encoder") as refused:
        sync_facts(database, encoder, datetime.now(UTC).date(), datetime.now(UTC).date())
    assert refused.value.code == "query_encoder_unavailable"


@given(st.text(alphabet="Ab .!?\n", max_size=300))
def test_sentences_stand_in_their_text(text: str) -> None:
    found = sentences(text)
    assert all(one in text and one[-1] in ".!" for one in found) and len(set(found)) == len(found)


@given(st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=8))
def test_the_same_episodes_come_to_the_same_facts(said: list[list[int]]) -> None:
    axes = np.eye(6, dtype=np.float32)
    episodes = [Episode(uuid4(), "") for _ in said]
    vectors = [{f"Sentence {number}.": axes[number] for number in of} for of in said]
    facts = distil(episodes, vectors)
    assert facts == distil(episodes, vectors) and len(facts) <= distilling.MOST_FACTS
    for fact in facts:
        says = {episode.id for episode, of in zip(episodes, vectors, strict=True) if fact.text in of}
        assert set(fact.origins) == says
    assert [len(fact.origins) for fact in facts] == sorted((len(fact.origins) for fact in facts), reverse=True)
