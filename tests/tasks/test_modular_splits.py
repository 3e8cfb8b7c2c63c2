"""Which pairs are trained on: the schemes of other codes against those codes, lists from files, and nobody knows."""

import json
import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuit_lab.errors import InputError
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.tasks.modular_splits import SPLITS, n_from_share, read_train_pairs


def trained(task):
    return [tuple(pair) for pair in task.training.tokens[:, :2].tolist()]


def shuffled_as_in_nanda_et_al(p, frac_train, seed):
    pairs = [(i, j, p) for i in range(p) for j in range(p)]
    random.seed(seed)
    random.shuffle(pairs)
    div = int(frac_train * len(pairs))
    return [pair[:2] for pair in pairs[:div]]


def drawn_as_in_the_transformer_lens_demo(p, frac_train, seed):
    torch.manual_seed(seed)
    indices = torch.randperm(p * p)
    cutoff = int(p * p * frac_train)
    return [divmod(index, p) for index in indices[:cutoff].tolist()]


ORIGINALS = {
    "python_shuffle": shuffled_as_in_nanda_et_al,
    "torch_randperm": drawn_as_in_the_transformer_lens_demo,
}


@pytest.mark.parametrize("split", ORIGINALS)
@pytest.mark.parametrize(("p", "share", "seed"), [(113, 0.3, 0), (113, 0.3, 598), (7, 0.5, 3), (31, 0.29, 2**40)])
def test_foreign_schemes_train_on_the_pairs_of_the_original_code(split, p, share, seed):
    task = build_task(ModularConfig(p=p, train_share=share, split=split, seed=seed))
    with torch.random.fork_rng():
        assert trained(task) == sorted(ORIGINALS[split](p, share, seed))


@pytest.mark.parametrize("split", ORIGINALS)
def test_the_global_generators_are_neither_used_nor_moved(split, monkeypatch):
    """Shape checks in tests draw from python's, so of that one it is shown that nobody seeds or shuffles with it."""
    for name in ("seed", "shuffle"):
        monkeypatch.setattr(random, name, None)
    state = torch.get_rng_state()
    build_task(ModularConfig(p=7, n_train=9, split=split))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("split", ORIGINALS)
def test_of_a_number_the_first_so_many_are_trained_on(split):
    task = build_task(ModularConfig(p=11, n_train=17, split=split, seed=5))
    order = ORIGINALS[split](11, 0.999, 5)
    assert trained(task) == sorted(order[:17])
    assert len(task.splits["test"]) == 121 - 17 and task.certificate.is_clean


@pytest.mark.parametrize("split", ORIGINALS)
def test_of_a_quotient_the_pairs_that_have_an_answer_are_shuffled(split):
    """By hand: the list without b = 0, in the order of (a, b), shuffled by the original's generator."""
    task = build_task(ModularConfig(operation="a/b", p=5, train_share=0.5, split=split, seed=1))
    pairs = [(a, b) for a in range(5) for b in range(1, 5)]
    if split == "python_shuffle":
        random.Random(1).shuffle(pairs)
    else:
        pairs = [pairs[i] for i in torch.randperm(20, generator=torch.Generator().manual_seed(1))]
    assert trained(task) == sorted(pairs[:10])


def test_foreign_shares_are_rounded_down_and_ours_up():
    assert [n_from_share(split, 0.3, 113**2) for split in ("ours", "python_shuffle", "torch_randperm")] == [
        3831,
        3830,
        3830,
    ]
    with pytest.raises(ValueError, match="train_share = 0.01 of 49 pairs, rounded down, leaves no pair to train on"):
        ModularConfig(p=7, train_share=0.01, split="python_shuffle")
    assert ModularConfig(p=7, train_share=0.01).n_training_pairs == 1


def test_the_schemes_draw_different_pairs():
    drawn = [trained(build_task(ModularConfig(p=13, n_train=60, split=split))) for split in ("ours", *ORIGINALS)]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


def test_a_config_without_the_new_settings_is_the_task_it_was():
    """The hash was computed before there were other splits than ours."""
    record = {"kind": "modular", "operation": "a+b", "p": 59, "train_share": None, "n_train": 1393, "labels": "true"}
    task = build_task(ModularConfig.model_validate(record | {"seed": 0, "label_seed": 0}))
    assert task.config.split == "ours"
    assert task.certificate.task_hash == "670a4e9740655642a83118e26e6f58872e7b021f8baaa21c58de0bd3b086eb59"


@settings(max_examples=25)
@given(data=st.data())
def test_listed_pairs_are_those_trained_on_whatever_their_order(data):
    operation = data.draw(st.sampled_from(["a+b", "a/b"]))
    possible = [i for i in range(49) if operation == "a+b" or i % 7]
    chosen = data.draw(st.lists(st.sampled_from(possible), min_size=1, max_size=30, unique=True))
    task = build_task(ModularConfig(operation=operation, p=7, train_pairs=tuple(chosen)))
    assert trained(task) == sorted(divmod(i, 7) for i in chosen)
    assert task.config.split == "listed" and task.config.n_training_pairs == len(chosen)
    again = build_task(ModularConfig.model_validate_json(task.config.model_dump_json()))
    assert again.config == task.config and again.certificate == task.certificate


def test_in_s5_an_index_counts_by_120():
    task = build_task(ModularConfig(operation="S5: ab", train_pairs=(3 * 120 + 17, 5)))
    assert trained(task) == [(0, 5), (3, 17)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_pairs": [3, 49]}, r"train_pairs holds 49; the indices a \* 7 \+ b reach from 0 to 48"),
        ({"train_pairs": [3, -1]}, "train_pairs holds -1"),
        ({"train_pairs": [5, 3, 5]}, "train_pairs holds 5 more than once"),
        ({"train_pairs": []}, "train_pairs lists 0 of 49 pairs; list at least one"),
        ({"train_pairs": list(range(49))}, "train_pairs lists 49 of 49 pairs.*hold at least one out"),
        ({"operation": "a/b", "train_pairs": [8, 14]}, r"holds 14, which is the pair a = 2, b = 0"),
        ({"train_pairs": [1, 2.0]}, "valid integer"),
        ({"train_pairs": [1, True]}, "valid integer"),
        ({"split": "listed"}, 'split = "listed" needs train_pairs'),
        ({"train_pairs": [1], "n_train": 1}, 'n_train = 1 does not go with split = "listed"'),
        ({"train_pairs": [1], "seed": 3}, 'seed = 3 does not go with split = "listed"'),
        ({"train_pairs": [1], "split": "ours", "n_train": 1}, 'split = "ours" draws the training pairs'),
        ({"train_pairs": [1], "split": "unknown"}, 'train_pairs = 1 indices does not go with split = "unknown"'),
        (
            {"split": "unknown", "train_share": 0.3},
            'train_share = 0.3 does not go with split = "unknown".*ours or python',
        ),
        ({"split": "unknown", "seed": 598}, 'seed = 598 does not go with split = "unknown"'),
        ({"split": "shuffle", "n_train": 3}, "python_shuffle"),
        ({"split": "torch_randperm"}, "exactly one of train_share and n_train.*nobody knows"),
        ({"split": "torch_randperm", "n_train": 3, "seed": 2**63}, "less than or equal to 9223372036854775807"),
        ({"p": 2003, "split": "unknown"}, r"p must be at most 2000, got 2003: .* p\^3 numbers"),
        ({"p": 10**30, "split": "unknown"}, "got a number of more than 20 digits"),
    ],
)
def test_mistakes_name_the_setting_the_value_and_the_fix(changes, message):
    with pytest.raises(ValueError, match=message):
        ModularConfig.model_validate({"p": 7} | changes)


@pytest.mark.parametrize("operation", ["a+b", "a/b", "a*b", "S5: ab"])
def test_of_an_unknown_split_there_are_only_pairs_and_nothing_is_certified(operation):
    p = None if operation.startswith("S5") else 11
    task = build_task(ModularConfig(operation=operation, p=p, split="unknown"))
    known = build_task(ModularConfig(operation=operation, p=p, train_share=0.5))
    assert list(task.splits) == ["all"] and len(task.training) == 0
    assert torch.equal(task.splits["all"].tokens, known.pairs.tokens)
    assert torch.equal(task.splits["all"].answer, known.pairs.answer)
    certificate = task.certificate
    assert not certificate.is_known and not certificate.is_clean and certificate.leaks == ()
    assert certificate.n_queries == {"all": len(known.pairs)}
    assert certificate.n_in_training == {} == certificate.n_mirrored
    assert certificate.task_hash != known.certificate.task_hash and known.certificate.is_known
    assert "which of them are in training is not known" in repr(task)
    most_frequent = max(known.pairs.answer.bincount().tolist())
    assert task.chance == {"all": pytest.approx(most_frequent / len(known.pairs))}


def test_every_split_has_a_meaning():
    assert set(SPLITS) == set(ModularConfig.model_fields["split"].annotation.__args__)


def write(path, indices):
    if path.suffix == ".json":
        path.write_text(json.dumps(indices))
    elif path.suffix == ".npy":
        np.save(path, np.array(indices))
    else:
        path.write_text("\n".join(map(str, indices)) + "\n")
    return path


@pytest.mark.parametrize("ending", [".json", ".npy", ".txt"])
def test_indices_are_read_from_files(tmp_path, ending):
    assert read_train_pairs(write(tmp_path / f"pairs{ending}", [8, 3, 20])) == (8, 3, 20)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"1\n", "a file of indices ends in one of: .json, .npy, .txt"),
        ("a.json", b"{}", "a.json is no .json file of integers: its top level is a dict"),
        ("a.json", b"[1, 2.5]", "a.json holds 2.5, which is no integer"),
        ("a.json", b"[true]", "a.json holds True, which is no integer"),
        ("a.json", b"[" * 100_000, "a.json is no .json file of integers"),
        ("a.json", b"\xff\xfe\x00", "a.json is no .json file of integers"),
        ("a.txt", b"1\nx\n", "a.txt is no .txt file of integers: .*'x'"),
        ("a.txt", b"9" * 5000, "a.txt is no .txt file of integers"),
        ("a.npy", b"PK\x03\x04", "a.npy is no .npy file of integers"),
        ("a.npy", b"", "a.npy is no .npy file of integers"),
        ("a.npy", b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, "a.npy is no .npy file of integers"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_train_pairs(tmp_path / name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_pickle_in_an_array_is_never_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"an": "object"}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"a.npy is no .npy file of integers: Object arrays cannot be loaded"):
        read_train_pairs(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.arange(6).reshape(2, 3))
    with pytest.raises(InputError, match=r"int64 of shape \[2, 3\], not integers in one dimension"):
        read_train_pairs(tmp_path / "b.npy")


def test_no_file_and_a_huge_one_are_refused(tmp_path):
    with pytest.raises(InputError, match="no train_pairs file at .*gone.txt: there is no such file"):
        read_train_pairs(tmp_path / "gone.txt")
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(InputError, match="huge.txt is too large for a train_pairs file"):
        read_train_pairs(tmp_path / "huge.txt")


@given(content=st.binary(max_size=200), ending=st.sampled_from([".json", ".npy", ".txt"]), magic=st.booleans())
def test_whatever_the_bytes_only_our_own_error_comes_out(tmp_path_factory, content, ending, magic):
    path = tmp_path_factory.getbasetemp() / f"anything{ending}"
    path.write_bytes((b"\x93NUMPY\x01\x00" if magic else b"") + content)
    with suppress(InputError):
        assert all(type(index) is int for index in read_train_pairs(path))
