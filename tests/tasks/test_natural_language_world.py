"""The drawn world: typed facts, one tail each, and a file that gives the same facts back.

`golden/natural_language_2wiki.json` is every fourth item of `world_items(SMALL)`: it fixes what a seed draws for good.
"""

import json
from pathlib import Path

import pytest

from circuit_lab.errors import InputError
from circuit_lab.tasks.natural_language_config import WorldConfig
from circuit_lab.tasks.natural_language_files import read_two_hop_questions
from circuit_lab.tasks.natural_language_world import INFERRED, RELATIONS, world_facts, world_items, write_world_file

GOLDEN = Path(__file__).parents[1] / "golden" / "natural_language_2wiki.json"
SMALL = WorldConfig(n_people=4, n_cities=2, n_companies=2, n_works=2, n_countries=2, seed=4)
WORLD = WorldConfig(n_people=11, n_cities=3, n_companies=4, n_works=5, n_countries=2, seed=2)


def test_facts_file_facts(tmp_path):
    questions = read_two_hop_questions(write_world_file(WORLD, tmp_path / "world.json"), format="2wiki")
    assert questions.facts == tuple(sorted(world_facts(WORLD)))
    assert len(questions.asked) == questions.n_compositions == questions.n_items
    assert (questions.left_out, questions.n_ambiguous) == ({}, 0)


def test_the_committed_items_are_what_their_seed_draws():
    assert json.loads(GOLDEN.read_text()) == list(world_items(SMALL))[::4]


def test_every_composition_is_asked_once_with_its_answer():
    facts = world_facts(WORLD)
    by_loop = {(a, b) for a in facts for b in facts if a.tail == b.head}
    items = list(world_items(WORLD))
    asked = [tuple(map(tuple, item["evidences"])) for item in items]
    assert len(asked) == len({*asked}) == len(by_loop)
    assert {*asked} == by_loop
    assert all(item["answer"] == hop2[2] for item, (_, hop2) in zip(items, asked, strict=True))
    assert len({item["_id"] for item in items}) == len(items)


def test_heads_and_tails_are_of_the_kinds_that_a_relation_joins():
    # Who is of which kind, by relations that only this kind has.
    facts = world_facts(WORLD)
    only = {"person": "employer", "city": "bishop", "company": "competitor", "work": "sequel", "country": "capital"}
    members = {kind: {fact.head for fact in facts if fact.relation == relation} for kind, relation in only.items()}
    assert {kind: len(found) for kind, found in members.items()} == {
        "person": 11, "city": 3, "company": 4, "work": 5, "country": 2,
    }  # fmt: skip
    kind_of = {name: kind for kind, names in members.items() for name in names}
    men, women = ({fact.tail for fact in facts if fact.relation == parent} for parent in ("father", "mother"))
    assert not men & women
    for head, relation, tail in facts:
        kind_of_tail = RELATIONS[kind_of[head]].get(relation, "person")
        assert kind_of[tail] == {"man": "person", "woman": "person"}.get(kind_of_tail, kind_of_tail)
        assert head != tail
    n_relations = {kind: len(relations) for kind, relations in RELATIONS.items()}
    assert len({fact[:2] for fact in facts}) == len(facts) == 10 + sum(n_relations[kind_of[e]] for e in kind_of)


def test_spouses_are_each_others_and_one_of_an_odd_number_has_none():
    spouse = {fact.head: fact.tail for fact in world_facts(WORLD) if fact.relation == "spouse"}
    assert len(spouse) == 10
    assert all(spouse[spouse[person]] == person for person in spouse)


def test_another_seed_draws_other_facts_over_the_same_names():
    other = world_facts(WORLD.model_copy(update={"seed": 3}))
    assert {fact.head for fact in other} == {fact.head for fact in world_facts(WORLD)}
    same = {*other} & {*world_facts(WORLD)}
    assert len(same) < 0.6 * len(other)  # some kinds have two members only, so chance alone keeps every second fact


def test_grandparents_are_inferred_and_read_as_such():
    items = [(item, tuple(triple[1] for triple in item["evidences"])) for item in world_items(WORLD)]
    assert {pair for item, pair in items if item["type"] == "inference"} == {*INFERRED}
    assert all((item["type"] == "inference") == (pair in INFERRED) for item, pair in items)
    item = next(item for item, pair in items if pair == ("mother", "father"))
    assert item["question"] == f"Who is the maternal grandfather of {item['evidences'][0][0]}?"
    item = next(item for item, pair in items if pair == ("director", "place of birth"))
    assert item["question"] == f"What is the place of birth of the director of {item['evidences'][0][0]}?"


def test_items_have_the_keys_of_the_format_and_their_context_states_the_facts():
    for item in world_items(SMALL):
        assert [*item] == ["_id", "type", "question", "context", "supporting_facts", "evidences", "answer"]
        sentences = {(title, place): text for title, texts in item["context"] for place, text in enumerate(texts)}
        assert [title for title, _ in item["supporting_facts"]] == [head for head, _, _ in item["evidences"]]
        for (head, relation, tail), (title, place) in zip(item["evidences"], item["supporting_facts"], strict=True):
            found = [text for (name, _), text in sentences.items() if name == title]
            assert place == 0
            assert f"The {relation} of {head} is {tail}." in found


def test_the_largest_world_has_names_enough():
    sizes = WorldConfig.model_json_schema()["properties"]
    largest = {name: size["maximum"] for name, size in sizes.items() if name != "seed"}
    names = {fact.head for fact in world_facts(WorldConfig(**largest))}
    assert len(names) == sum(largest.values())


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "world.json"
    path.write_text("mine")
    with pytest.raises(InputError, match="already exists and is not overwritten"):
        write_world_file(SMALL, path)
    assert path.read_text() == "mine"
    with pytest.raises(InputError, match="cannot be written"):
        write_world_file(SMALL, tmp_path / "no folder" / "world.json")


def test_the_file_is_a_json_list_with_one_item_a_line(tmp_path):
    lines = write_world_file(SMALL, tmp_path / "world.json").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("[", "]")
    assert [json.loads(line.removesuffix(",")) for line in lines[1:-1]] == list(world_items(SMALL))
