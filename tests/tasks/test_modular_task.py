"""Modular tasks: every answer against plain Python, subsets, labels, certificate, chance, identity."""

from collections import Counter
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuit_lab.tasks import MODULAR_SPLITS, ModularConfig, ModularTask, build_task, concatenate
from circuit_lab.tasks.certificate import certify_pairs, is_mirrored

FORMULAS = {
    "a+b": lambda a, b, p: (a + b) % p,
    "a-b": lambda a, b, p: (a - b) % p,
    "a*b": lambda a, b, p: a * b % p,
    "a/b": lambda a, b, p: next(c for c in range(p) if c * b % p == a),
    "a^2+b^2": lambda a, b, p: (a**2 + b**2) % p,
    "a^2+ab+b^2": lambda a, b, p: (a**2 + a * b + b**2) % p,
    "a^2+ab+b^2+a": lambda a, b, p: (a**2 + a * b + b**2 + a) % p,
}


def build(operation="a+b", p=7, train_share=0.4, **options):
    p = None if operation.startswith("S5") else p
    return build_task(ModularConfig(operation=operation, p=p, train_share=train_share, **options))


def rows(queries):
    return [(a, b, c) for (a, b, _), c in zip(queries.tokens.tolist(), queries.answer.tolist(), strict=True)]


@pytest.mark.parametrize("operation", FORMULAS)
@pytest.mark.parametrize("p", [3, 7, 13])
def test_answers_are_those_of_plain_python(operation, p):
    task = build(operation, p)
    for a, b, answer in rows(task.pairs):
        assert answer == FORMULAS[operation](a, b, p)
    expected = {(a, b) for a in range(p) for b in range(p) if operation != "a/b" or b != 0}
    assert {(a, b) for a, b, _ in rows(task.pairs)} == expected
    assert torch.equal(task.pairs.tokens[:, 2].unique(), torch.tensor([p]))
    assert (task.d_vocab, task.d_vocab_out, task.n_ctx) == (p + 1, p, 3)


@pytest.mark.parametrize("operation", ["S5: ab", "S5: aba^-1", "S5: aba"])
def test_products_in_s5_are_compositions_of_permutations(operation):
    task, elements = build(operation), list(permutations(range(5)))
    for a, b, answer in rows(task.pairs)[::137]:
        x, y = elements[a], elements[b]
        last = {"S5: ab": range(5), "S5: aba^-1": [x.index(i) for i in range(5)], "S5: aba": x}[operation]
        assert elements[answer] == tuple(x[y[last[i]]] for i in range(5))


@settings(max_examples=25, deadline=None)
@given(p=st.sampled_from([3, 5, 7, 11]), n_train=st.integers(1, 8), seed=st.integers(0, 5))
def test_splits_part_the_pairs_and_training_sets_are_nested(p, n_train, seed):
    task = build(p=p, train_share=None, n_train=n_train, seed=seed)
    train, test = set(rows(task.splits["train"])), set(rows(task.splits["test"]))
    assert len(train) == n_train and not train & test and train | test == set(rows(task.pairs))
    assert set(rows(task.splits["test_unmirrored"])) == {(a, b, c) for a, b, c in test if (b, a, c) not in train}
    assert task.pairs.in_training.sum() == n_train and task.training.in_training.all()
    if n_train > 1:
        assert set(rows(build(p=p, train_share=None, n_train=n_train - 1, seed=seed).training)) < train


def test_a_share_is_rounded_up_to_whole_pairs():
    assert len(build(p=7, train_share=0.3).training) == 15  # 14.7
    assert len(build(p=5, train_share=0.4).training) == 10


def test_mirrored_pairs_are_those_whose_order_alone_is_new():
    """By hand at p = 3, training on (0, 1) -> 1 and (2, 2) -> 1."""
    task = build(p=3)
    training = task.pairs[torch.tensor([1, 8])]
    mirrored = [rows(task.pairs)[i][:2] for i in torch.nonzero(is_mirrored(task.pairs, training)).squeeze(1)]
    assert mirrored == [(1, 0)]
    other_label = replace(training, answer=torch.tensor([2, 1]))
    assert not is_mirrored(task.pairs, other_label).any()


@pytest.mark.parametrize("operation", ["a+b", "a-b", "S5: ab"])
def test_the_certificate_counts_mirrors_and_has_no_leak(operation):
    task = build(operation, p=11)
    train, test = set(rows(task.splits["train"])), rows(task.splits["test"])
    assert task.certificate.n_mirrored["test"] == sum((b, a, c) in train for a, b, c in test)
    assert task.certificate.n_mirrored["train"] == task.certificate.n_mirrored["test_unmirrored"] == 0
    assert task.certificate.is_clean and task.certificate.n_in_training == {
        "train": len(train), "test": 0, "test_unmirrored": 0,
    }  # fmt: skip
    assert (task.certificate.n_mirrored["test"] > 0) is (operation != "a-b")


def test_a_leak_would_be_named():
    task = build(p=7)
    certificate = certify_pairs(
        splits={"test": task.pairs[:10]}, training=task.pairs[5:20], held_out=["test"], n_mirrored={}
    )
    assert certificate.leaks == ("5 of 10 test queries are training items (50 %): the test set leaked",)


def test_random_labels_are_as_good_as_uniform_and_independent_of_the_split():
    task = build(p=31, labels="random")
    counts = Counter(task.pairs.answer.tolist())
    assert len(counts) == 31 and max(counts.values()) < 60 and min(counts.values()) > 10  # mean 31, sd 5.5
    assert torch.equal(task.pairs.answer, build(p=31, labels="random", seed=9).pairs.answer)
    assert not torch.equal(task.pairs.answer, build(p=31, labels="random", label_seed=1).pairs.answer)
    agree = (task.pairs.answer == task.pairs.intermediates["result"]).double().mean()
    assert abs(float(agree) - 1 / 31) < 0.03
    truth = {(a, b): c for a, b, c in rows(task.pairs)}
    assert sum(truth[a, b] == truth[b, a] for a in range(31) for b in range(a)) < 40  # of 465


def test_commutative_random_labels_agree_on_both_orders():
    truth = {(a, b): c for a, b, c in rows(build(p=13, labels="random_commutative").pairs)}
    assert all(truth[a, b] == truth[b, a] for a, b in truth)
    assert len({truth[a, 0] for a in range(13)}) > 5


def test_chance_is_the_better_of_a_guess_and_the_most_frequent_training_answer():
    task = build(p=5, train_share=None, n_train=9)
    frequency = Counter(task.training.answer.tolist())
    top = [answer for answer, n in frequency.items() if n == max(frequency.values())]
    test = task.splits["test"].answer.tolist()
    assert task.chance["test"] == max(1 / 5, max(test.count(answer) for answer in top) / len(test))


def test_equal_configs_give_equal_tasks_and_others_do_not():
    base = build(p=7).certificate.task_hash
    assert build(p=7).certificate.task_hash == base
    changes = [{"seed": 1}, {"p": 11}, {"operation": "a-b"}, {"train_share": 0.5}, {"labels": "random"}]
    assert len({base, *(build(**({"p": 7} | change)).certificate.task_hash for change in changes)}) == 6
    random = {build(p=7, labels="random", label_seed=seed).certificate.task_hash for seed in (0, 1)}
    assert len(random) == 2


def test_the_data_of_a_seed_never_change():
    assert build(p=59, train_share=None, n_train=1393).certificate.task_hash.startswith("670a4e9740655642")
    assert rows(build(p=7, train_share=None, n_train=4, seed=3).training) == [
        (2, 1, 3),
        (3, 2, 5),
        (4, 2, 6),
        (5, 6, 4),
    ]


def test_the_form_of_a_task():
    task = build(p=7)
    assert isinstance(task, ModularTask) and tuple(task.splits) == MODULAR_SPLITS
    assert repr(task) == "ModularTask(a+b mod 7, 20 of 49 pairs in training, 17 unmirrored test pairs, true labels)"
    assert task.pairs.frame().columns.tolist() == ["a", "b", "=", "result", "answer", "in_training"]


@pytest.mark.parametrize("operation", ["a*b", "a/b"])
def test_answers_of_products_and_quotients_are_sums_and_differences_of_logarithms(operation):
    task, sign = build(operation, p=11), {"a*b": 1, "a/b": -1}[operation]
    assert (task.group.name, build("a+b", p=11).group.name) == ("Z_11^*", "Z_11")
    a, b, _ = task.pairs.tokens.unbind(1)
    kept = (a != 0) & (b != 0)
    log = task.group.element_of_output
    assert torch.equal(log[task.pairs.answer[kept]], (log[a[kept]] + sign * log[b[kept]]) % 10)


@pytest.mark.parametrize("label_seed", [0, 3])
def test_random_labels_are_the_raw_draws_of_their_own_stream_and_never_change(label_seed):
    """13 is the stream of the labels; saved memorising nets rest on it. The hash was taken when this was written."""
    labels = build(p=7, labels="random", label_seed=label_seed).pairs.answer.tolist()
    assert labels == [int(draw) % 7 for draw in np.random.PCG64([label_seed, 13]).random_raw(49)]
    assert build(p=7, labels="random").certificate.task_hash.startswith("f7793127d207579c")


def test_a_training_pair_among_the_tests_is_reported_for_both_held_out_splits(monkeypatch):
    """Every split gets the first training pair once more."""

    def leaking(*, splits, training, **options):
        leaked = {name: concatenate([queries, training[:1]]) for name, queries in splits.items()}
        return certify_pairs(splits=leaked, training=training, **options)

    monkeypatch.setattr("circuit_lab.tasks.modular.certify_pairs", leaking)
    certificate = build(p=7).certificate
    assert not certificate.is_clean
    assert [leak.split(" queries")[0].rpartition(" ")[2] for leak in certificate.leaks] == ["test", "test_unmirrored"]
    assert certificate.n_in_training["test"] == certificate.n_in_training["test_unmirrored"] == 1
