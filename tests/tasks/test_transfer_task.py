"""Transfer tasks: a closed choice by hand, then against a naive reading of facts and queries, then mistakes."""

import json
import tomllib

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from circuit_lab.errors import InputError
from circuit_lab.tasks import TwoHopConfig, build_task
from circuit_lab.tasks.transfer import NEVER_TRAINED, keep_closed
from circuit_lab.tasks.transfer_config import TransferConfig
from circuit_lab.training import load_checkpoint, parse_recipe, train

SMALL = {"n_entities": 13, "n_relations": 8, "out_degree": 5, "ood_share": 0.25, "test_id_share": 0.1, "seed": 3}
OWN = {"new_per_entity": 1.5, "kept_per_new": 4.0}


@pytest.fixture(scope="module")
def config():
    return TransferConfig(**SMALL, **OWN)


@pytest.fixture(scope="module")
def task(config):
    return build_task(config)


@pytest.fixture(scope="module")
def base(config):
    return build_task(config.base)


def rows(queries):
    return {tuple(row) for row in queries.tokens.tolist()}


def facts(task, *, ood):
    return {(h, r): t for h, r, t in task.facts[task.is_ood == ood].tolist()}


@pytest.mark.parametrize(
    ("budget", "kept_facts", "kept_pairs"),
    [
        # Fact 2 brings queries (0, 2) and (2, 2), each once: 3 items. Fact 0 then costs itself and (0, 1), (3, 0).
        (3, [2], [1, 2]),
        (5, [2, 1], [0, 1, 2]),  # fact 0 costs 3 of the 2 left, fact 1 costs itself and (0, 1)
        (6, [2, 0], [0, 1, 2, 3]),
        (0, [], []),
    ],
)
def test_a_closed_choice_by_hand(budget, kept_facts, kept_pairs):
    pairs = np.array([[0, 1], [0, 2], [2, 2], [3, 0]])
    kept = keep_closed(np.array([2, 0, 1]), pairs, n_facts=5, budget=budget)
    assert np.flatnonzero(kept.facts).tolist() == sorted(kept_facts)
    assert np.flatnonzero(kept.pairs).tolist() == kept_pairs


def test_new_facts_are_new_and_old_ones_are_the_id_facts_of_the_base(task, base):
    old, new = facts(task, ood=False), facts(task, ood=True)
    assert old == facts(base, ood=False)
    assert len(new) == 20 and not new.keys() & (facts(base, ood=False) | facts(base, ood=True)).keys()
    assert all(h < 13 <= r < 21 and t < 13 for (h, r), t in new.items())


def test_queries_are_what_trying_every_pair_of_facts_gives(task):
    old, new = facts(task, ood=False), facts(task, ood=True)

    def composed(first, second):
        return {(h, r1, r2) for (h, r1), b in first.items() for (head, r2) in second if head == b}

    assert rows(task.splits["hop1_ood"]) == composed(new, old)
    assert rows(task.splits["hop2_ood"]) == composed(old, new)
    assert rows(task.splits["test_ood"]) == composed(new, new)
    for name in NEVER_TRAINED:
        both = old | new
        queries = task.splits[name]
        bridges = [both[h, r1] for h, r1, _ in queries.tokens.tolist()]
        assert queries.intermediates["bridge"].tolist() == bridges
        pairs = zip(bridges, queries.tokens[:, 2].tolist(), strict=True)
        assert queries.answer.tolist() == [both[pair] for pair in pairs]


def test_what_is_kept_is_closed_and_within_the_budget(task, base):
    assert rows(task.splits["train_inferred"]) == rows(base.splits["train_inferred"])
    assert rows(task.splits["test_id"]) == rows(base.splits["test_id"])
    old = facts(task, ood=False)
    kept_facts = {(h, r) for h, r, _ in task.splits["atomic_id"].tokens[task.splits["atomic_id"].in_training].tolist()}
    used = {(h, r1, r2): {(h, r1), (old[h, r1], r2)} for h, r1, r2 in base.splits["train_inferred"].tokens.tolist()}
    brought = {query for query, of in used.items() if of & kept_facts}
    items = rows(task.training)
    two_hop = {row for row in items if row[2] != task.pad_token}
    assert kept_facts and two_hop == brought
    assert len(kept_facts) + len(brought) <= 80 < len(brought) + len(kept_facts) + 10, "4 items for each of 20 facts"
    assert {row[:2] for row in items - two_hop} == kept_facts | facts(task, ood=True).keys()
    assert len(items) == len(task.training), "no item twice"


def test_nothing_that_is_asked_is_trained(task):
    assert task.certificate.is_clean
    asked = set().union(*(rows(task.splits[name]) for name in NEVER_TRAINED))
    assert not asked & rows(task.training)
    uses = task.certificate.ood_fact_uses
    assert {hop: counts["max"] for hop, counts in uses.items()} == {"hop1": 0.0, "hop2": 0.0}


def test_without_retention_the_new_facts_stand_alone_and_the_questions_stay(config, task):
    alone = build_task(config.model_copy(update={"retention": "none"}))
    assert rows(alone.training) == rows(alone.splits["atomic_ood"]) == rows(task.splits["atomic_ood"])
    for name in (*NEVER_TRAINED, "train_inferred"):
        assert torch.equal(alone.splits[name].tokens, task.splits[name].tokens)
    assert not alone.splits["train_inferred"].in_training.any()


def test_without_retention_it_does_not_matter_how_much_would_be_kept(config):
    alone = config.model_copy(update={"retention": "none"})
    little = build_task(alone.model_copy(update={"kept_per_new": 0.01}))
    assert little.certificate.task_hash == build_task(alone).certificate.task_hash


def test_the_task_depends_on_the_seed_and_not_on_the_regime(config, task):
    same = build_task(config.model_copy(update={"regime": "both_full"}))
    other = build_task(config.model_copy(update={"seed": 4}))
    assert same.certificate.task_hash == task.certificate.task_hash
    assert facts(other, ood=True) != facts(task, ood=True)


@pytest.mark.slow
def test_at_the_published_size_as_much_is_kept_as_the_notebook_says():
    """Its stored output: 220 facts with 7,780 queries, and 459 questions that mix them with 2,000 new facts."""
    task = build_task(TransferConfig(n_entities=2000, n_relations=200, out_degree=20, phi=18.0))
    kept = task.splits["atomic_id"]
    n_facts, n_queries = int(kept.in_training.sum()), int(task.splits["train_inferred"].in_training.sum())
    assert 7_990 <= n_facts + n_queries <= 8_000
    assert n_facts == pytest.approx(220, abs=20), "a fact brings 36 queries, with a spread of 7"
    is_kept = torch.zeros(len(task.facts), dtype=torch.bool)
    is_kept[kept.facts[kept.in_training, 0]] = True
    n_mixed = sum(int(is_kept[task.splits[name].facts].any(1).sum()) for name in ("hop1_ood", "hop2_ood"))
    assert n_mixed == pytest.approx(459, abs=90), "4 standard deviations of a count of that size"


def test_a_checkpoint_of_it_knows_its_task_again_and_starts_from_its_parent(tmp_path):
    recipe = {
        "task": SMALL | {"kind": "two_hop", "regime": "both_full"},
        "net": {"layer_map": [0, 0], "d_model": 8, "n_heads": 2, "d_mlp": 16},
        "training": {"n_steps": 2, "batch_size": 8},
    }
    parent = train(parse_recipe(recipe, source="test"), tmp_path / "parent", device="cpu", progress=False)
    child = recipe | {
        "task": recipe["task"] | {"kind": "two_hop_transfer"} | OWN,
        "parent": {"checkpoint": str(parent.checkpoint)},
    }
    parsed = parse_recipe(child, source="test")
    assert parse_recipe(tomllib.loads(parsed.to_toml()), source="test") == parsed
    found = load_checkpoint(train(parsed, tmp_path / "child", device="cpu", progress=False).checkpoint)
    assert found.task.config == TransferConfig(**SMALL, **OWN, regime="both_full")
    assert found.task.config.base == TwoHopConfig(**SMALL, regime="both_full")
    assert json.loads(found.task.config.model_dump_json())["retention"] == "closed"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"new_per_entity": 3.1}, r"asks for 41 new facts.*only 39 are in no fact of the base; set it to at most 3"),
        ({"kept_per_new": 0.05}, "keeps 1 items, too few for one old fact with all queries"),
        ({"new_per_entity": 0.05, "kept_per_new": 40.0}, "too few; raise new_per_entity"),
    ],
)
def test_a_task_that_cannot_be_drawn_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build_task(TransferConfig(**SMALL, **{**OWN, **settings}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"leaked_share": 0.5}, "leaked_share = 0.5 makes the base a control"),
        ({"shuffled_answers": True}, "shuffled_answers = True makes the base a control"),
        ({"retention": "open"}, "'closed' or 'none'"),
        ({"new_share": 0.1}, "unknown TransferConfig setting 'new_share'"),
        ({"new_per_entity": 0.0}, "greater than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        TransferConfig(**SMALL, **{**OWN, **settings})
