"""Drawn tasks: against brute force over a dict of facts, then properties over seeds, regimes and sizes."""

from collections import Counter
from itertools import product

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuit_lab.tasks import AUGMENTATION_REGIMES, TWO_HOP_SPLITS, TwoHopConfig, build_task

SMALL = {"n_entities": 13, "n_relations": 6, "out_degree": 4, "ood_share": 0.25, "test_id_share": 0.1}


@st.composite
def configs(draw):
    """A small task of any regime or custom augmentation, contaminated or not."""
    n_relations = draw(st.integers(2, 6))
    settings = {
        "n_entities": draw(st.integers(4, 14)),
        "n_relations": n_relations,
        "out_degree": draw(st.integers(2, n_relations)),
        "ood_share": draw(st.sampled_from([0.1, 0.3, 0.55])),
        "test_id_share": draw(st.sampled_from([0.005, 0.2])),
        "leaked_share": draw(st.sampled_from([0.0, 0.5])),
        "seed": draw(st.integers(0, 10_000)),
    }
    hop = st.fixed_dictionaries({"ratio": st.sampled_from([0.0, 0.3, 1.0]), "samples_per_fact": st.integers(0, 5)})
    choice = st.fixed_dictionaries({"regime": st.sampled_from(sorted(AUGMENTATION_REGIMES))})
    custom = st.fixed_dictionaries({"augmentation": st.fixed_dictionaries({"hop1": hop, "hop2": hop})})
    return TwoHopConfig.model_validate(settings | draw(choice | custom))


def build_or_reject(config):
    """The task, unless these few facts happen to give no test queries."""
    try:
        return build_task(config)
    except ValueError as error:
        assert "is empty" in str(error)
        hypothesis.reject()


def rows(queries):
    return [tuple(row) for row in queries.tokens.tolist()]


def fact_dict(task):
    """{(h, r): (t, whether OOD)}, the naive view of the facts."""
    return {(h, r): (t, ood) for (h, r, t), ood in zip(task.facts.tolist(), task.is_ood.tolist(), strict=True)}


def brute_force(task):
    """{(hop 1 OOD, hop 2 OOD): {(h, r1, r2): (bridge, answer)}} by trying every triple."""
    facts = fact_dict(task)
    relations = range(task.n_entities, task.pad_token)
    found = {kind: {} for kind in product([False, True], repeat=2)}
    for h, r1, r2 in product(range(task.n_entities), relations, relations):
        if (h, r1) in facts and (facts[h, r1][0], r2) in facts:
            bridge, hop1_ood = facts[h, r1]
            answer, hop2_ood = facts[bridge, r2]
            found[hop1_ood, hop2_ood][h, r1, r2] = (bridge, answer)
    return found


@settings(max_examples=40, deadline=None)
@given(configs())
def test_splits_are_those_of_brute_force(config):
    task = build_or_reject(config)
    found = brute_force(task)
    for split, kind in {"test_ood": (True, True), "hop1_ood": (True, False), "hop2_ood": (False, True)}.items():
        assert sorted(rows(task.splits[split])) == sorted(found[kind])
    id_queries = rows(task.splits["train_inferred"]) + rows(task.splits["test_id"])
    assert sorted(id_queries) == sorted(found[False, False])  # each once: phi is None
    answers = {query: pair for kind in found.values() for query, pair in kind.items()}
    for split in TWO_HOP_SPLITS[2:]:
        queries = task.splits[split]
        given_pairs = zip(queries.intermediates["bridge"].tolist(), queries.answer.tolist(), strict=True)
        assert [answers[query] for query in rows(queries)] == list(given_pairs)
        assert (queries.answer_position == 2).all()


@settings(max_examples=40, deadline=None)
@given(configs())
def test_training_is_what_the_splits_say_it_is(config):
    task = build_or_reject(config)
    training = rows(task.training)
    assert len(set(training)) == len(training)
    marked = [row for split in task.splits.values() for row in rows(split[split.in_training])]
    assert sorted(marked) == sorted(training)
    for split in ("atomic_id", "atomic_ood", "train_inferred"):
        assert task.splits[split].in_training.all()
    assert not task.splits["test_id"].in_training.any()
    n_test_ood = len(task.splits["test_ood"])
    n_leaked = int(np.ceil(config.leaked_share * n_test_ood))
    assert task.certificate.n_in_training["test_ood"] == n_leaked
    assert task.certificate.is_clean == (n_leaked == 0)
    assert task.training.in_training.all()


@settings(max_examples=40, deadline=None)
@given(configs())
def test_facts_are_as_described(config):
    task = build_or_reject(config)
    heads = Counter(h for h, _ in fact_dict(task))
    assert heads == dict.fromkeys(range(config.n_entities), config.out_degree)
    assert task.facts[:, 2].max() < config.n_entities
    assert int(task.is_ood.sum()) == int(np.ceil(round(config.ood_share * len(task.facts), 6)))
    for split, is_ood in (("atomic_id", False), ("atomic_ood", True)):
        queries = task.splits[split]
        expected = [(h, r, task.pad_token, t) for (h, r), (t, ood) in fact_dict(task).items() if ood == is_ood]
        given_rows = torch.cat([queries.tokens, queries.answer[:, None]], dim=1).tolist()
        assert [tuple(row) for row in given_rows] == expected
        assert (queries.answer_position == 1).all()


@settings(max_examples=40, deadline=None)
@given(configs())
def test_fact_rows_chain_to_the_answer(config):
    task = build_or_reject(config)
    for split in TWO_HOP_SPLITS[2:]:
        queries = task.splits[split]
        hop1, hop2 = task.facts[queries.facts[:, 0]], task.facts[queries.facts[:, 1]]
        assert torch.equal(hop1[:, 2], hop2[:, 0])
        assert torch.equal(torch.stack([hop1[:, 0], hop1[:, 1], hop2[:, 1]], dim=1), queries.tokens)


@pytest.mark.parametrize("seed", range(5))
def test_regime_phi_and_controls_move_neither_facts_nor_tests(seed):
    plain = build_task(TwoHopConfig(**SMALL, seed=seed))
    changes = [{"regime": regime} for regime in AUGMENTATION_REGIMES]
    changes += [{"phi": 1.5}, {"leaked_share": 0.5}, {"regime": "both_half", "phi": 2.0, "leaked_share": 1.0}]
    for change in changes:
        other = build_task(TwoHopConfig(**SMALL, seed=seed, **change))
        assert torch.equal(plain.facts, other.facts)
        assert torch.equal(plain.is_ood, other.is_ood)
        for split in ("test_id", "test_ood", "hop1_ood", "hop2_ood"):
            assert rows(plain.splits[split]) == rows(other.splits[split])


def test_same_config_gives_the_same_task_and_another_seed_another():
    hashes = [build_task(TwoHopConfig(**SMALL, seed=seed)).certificate.task_hash for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_task_hash_is_the_same_on_every_machine():
    # Taken when this was written. Another value means that saved checkpoints no longer find their task.
    task = build_task(TwoHopConfig(**SMALL, seed=7, regime="both_half", phi=2.0, leaked_share=0.25))
    assert task.certificate.task_hash == "5a271a957791fba0ff227bbd836964ef018b4ff8ff685ce2204b8ad380e90129"


def test_phi_keeps_so_many_and_a_larger_one_keeps_these_too():
    kept = {}
    for phi in (0.5, 1.0, 2.0):
        task = build_task(TwoHopConfig(**SMALL, phi=phi))
        kept[phi] = set(rows(task.splits["train_inferred"]))
        assert len(kept[phi]) == np.ceil(phi * 39)  # 52 facts, 13 of them OOD
    assert kept[0.5] < kept[1.0] < kept[2.0]


def test_test_id_takes_its_share_rounded_up():
    task = build_task(TwoHopConfig(**SMALL))
    n_id_pairs = len(task.splits["test_id"]) + len(task.splits["train_inferred"])
    assert len(task.splits["test_id"]) == np.ceil(0.1 * n_id_pairs)


def test_leaking_everything_is_reported():
    task = build_task(TwoHopConfig(**SMALL, leaked_share=1.0))
    n = len(task.splits["test_ood"])
    assert task.splits["test_ood"].in_training.all()
    assert task.certificate.leaks == (f"{n} of {n} test_ood queries are training items (100 %): the test set leaked",)
    assert build_task(TwoHopConfig(**SMALL)).certificate.is_clean


def test_shuffled_answers_are_a_permutation_that_ignores_the_facts():
    plain = build_task(TwoHopConfig(**SMALL, leaked_share=0.5))
    shuffled = build_task(TwoHopConfig(**SMALL, leaked_share=0.5, shuffled_answers=True))

    def answers(task):
        parts = [task.splits[name] for name in TWO_HOP_SPLITS[2:]]
        return {row: answer for part in parts for row, answer in zip(rows(part), part.answer.tolist(), strict=True)}

    assert answers(plain).keys() == answers(shuffled).keys()
    assert Counter(answers(plain).values()) == Counter(answers(shuffled).values())
    same = [answers(plain)[row] == answers(shuffled)[row] for row in answers(plain)]
    # By chance one answer in 13 stays; 208 queries, so 16 with standard deviation 4.
    assert np.sum(same) < 36
    # The training items ask for the shuffled answers; atomic facts stay true.
    trained = dict(zip(rows(shuffled.training), shuffled.training.answer.tolist(), strict=True))
    assert all(answers(shuffled)[row] == answer for row, answer in trained.items() if row[2] != shuffled.pad_token)
    assert torch.equal(shuffled.splits["atomic_ood"].answer, plain.splits["atomic_ood"].answer)
    assert torch.equal(
        shuffled.splits["test_ood"].intermediates["bridge"], plain.splits["test_ood"].intermediates["bridge"]
    )


def best_rule(queries, seen, keys):
    """Accuracy on `queries` of the best rule that reads only these tokens, learnt from `seen`."""

    def key_rows(part):
        columns = {name: part.tokens[:, i] for i, name in enumerate(part.position_names)} | dict(part.intermediates)
        return list(zip(*(columns[name].tolist() for name in keys), strict=True))

    answers = {}
    for key, answer in zip(key_rows(seen), seen.answer.tolist(), strict=True):
        answers.setdefault(key, Counter())[answer] += 1
    common = [answers[key].most_common(1)[0][0] if key in answers else -1 for key in key_rows(queries)]
    return float(np.mean(np.array(common) == queries.answer.numpy()))


def test_shuffled_answers_follow_from_nothing_that_queries_share():
    sizes = SMALL | {"n_entities": 25, "out_degree": 6, "test_id_share": 0.3}
    rules = [("bridge", "r2"), ("h", "r1"), ("h", "r2"), ("r1", "r2"), ("r2",)]
    plain, shuffled = (build_task(TwoHopConfig(**sizes, shuffled_answers=is_on)) for is_on in (False, True))
    asked, seen = (plain.splits[name] for name in ("test_id", "train_inferred"))
    assert best_rule(asked, seen, ("bridge", "r2")) > 0.9  # the circuit; the rest have a fact not composed in training
    asked, seen = (shuffled.splits[name] for name in ("test_id", "train_inferred"))
    assert len(asked) > 150
    # One answer in 25 by chance; of 153, 6 with standard deviation 2.5.
    assert max(best_rule(asked, seen, keys) for keys in rules) < 16 / 153
    assert best_rule(seen, seen, ("h", "r1", "r2")) == 1  # rote


def test_shuffled_answers_show_in_the_tasks_words_and_hash_only():
    plain, shuffled = (build_task(TwoHopConfig(**SMALL, shuffled_answers=is_on)) for is_on in (False, True))
    assert repr(shuffled) == repr(plain).replace("clean)", "clean, shuffled answers)") != repr(plain)
    same = [vars(task.certificate) | {"task_hash": None} for task in (plain, shuffled)]
    assert same[0] == same[1]
    assert plain.certificate.task_hash != shuffled.certificate.task_hash


def test_draws_are_uniform():
    task = build_task(TwoHopConfig(n_entities=200, n_relations=20, out_degree=10, seed=3))
    tails = torch.bincount(task.facts[:, 2], minlength=200)
    relations = torch.bincount(task.facts[:, 1] - 200, minlength=20)
    # Chi-square with 199 degrees of freedom: mean 199, standard deviation 20. Relations: 100 each, deviation 7.
    assert 100 < ((tails - 10.0) ** 2 / 10).sum() < 300
    assert (relations - 100).abs().max() < 35


def test_vocabulary_and_sizes():
    task = build_task(TwoHopConfig(**SMALL))
    assert task.vocab[:2] == ("<e_0>", "<e_1>")
    assert task.vocab[13:15] == ("<r_0>", "<r_1>")
    assert (task.d_vocab, task.n_ctx, task.n_entities, task.vocab[task.pad_token]) == (20, 3, 13, "<pad>")
    assert tuple(task.splits) == tuple(task.chance) == TWO_HOP_SPLITS
    assert task.splits["test_ood"].position_names == ("h", "r1", "r2")
    assert repr(task).startswith("TwoHopTask(13 entities, 52 facts of which 13 OOD")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"ood_share": 0.01, "seed": 1},
            r"test_ood is empty: no OOD fact continues another.*ood_share = 0.01.*1 OOD facts of 52.*raise ood_share",
        ),
        ({"ood_share": 0.99}, r"test_id or train_inferred is empty: only 0 ID-ID queries exist.*lower ood_share"),
        (
            {"phi": 90.0},
            r"phi = 90 asks for 3510 ID-ID .* \(90 x 39 ID facts\), but only \d+ exist; set phi to at most",
        ),
    ],
)
def test_impossible_tasks_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build_task(TwoHopConfig(**(SMALL | change)))


@pytest.mark.parametrize("seed", range(8))
def test_largest_phi_that_the_error_names_is_accepted(seed):
    with pytest.raises(ValueError, match="set phi to at most") as caught:
        build_task(TwoHopConfig(**SMALL, seed=seed, phi=90.0))
    largest = float(str(caught.value).split("at most ")[1].split(",")[0])
    task = build_task(TwoHopConfig(**SMALL, seed=seed, phi=largest))
    everything = build_task(TwoHopConfig(**SMALL, seed=seed))
    n_dropped = len(everything.splits["train_inferred"]) - len(task.splits["train_inferred"])
    assert 0 <= n_dropped <= 1
