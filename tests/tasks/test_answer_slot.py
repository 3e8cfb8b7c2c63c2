"""Queries with a place for the answer: by hand, from the golden folder's own text, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recursive_nets import make_recursive_net

from circuit_lab.errors import InputError
from circuit_lab.tasks import TwoHopConfig, TwoHopTask, read_dataset_folder
from circuit_lab.tasks.answer_slot import in_answer_slots
from circuit_lab.training.evaluation import split_scores

FOLDER = Path(__file__).parent.parent / "golden" / "two_hop_natural"
N_TOKENS = 58


@pytest.fixture(scope="module")
def task():
    return read_dataset_folder(FOLDER)


@pytest.fixture(scope="module")
def slots(task):
    return in_answer_slots(task, d_vocab=N_TOKENS)


def parsed(text):
    """Tokens of a text, by hand."""
    return [f"<{part}" for part in text.split("<")[1:]]


def test_rows_are_those_that_the_released_notebook_makes(slots):
    """Its vocab_map is place + 1; inputs and labels are filled up with 0 to five."""
    place = {token: index + 1 for index, token in enumerate(json.loads((FOLDER / "vocab.json").read_text()))}
    expected = set()
    for item in json.loads((FOLDER / "train.json").read_text()):
        tokens, target = ([place[token] for token in parsed(item[key])] for key in ("input_text", "target_text"))
        assert target[: len(tokens)] == tokens
        assert target[-1] == place["</a>"]
        expected.add((*tokens, *[0] * (5 - len(tokens)), len(tokens), target[len(tokens)]))
    items = slots.training
    found = torch.cat([items.tokens, items.answer_position[:, None], items.answer[:, None]], dim=1)
    assert {tuple(row) for row in found.tolist()} == expected
    assert len(found) == len(expected)
    assert set(items.answer_position.tolist()) == {2, 3}


def test_by_hand(task, slots):
    """Entities are tokens 0..39 and relations 40..51 of the file, so here 1..40 and 41..52."""
    query, row = task.splits["test_ood"], slots.splits["test_ood"]
    assert row.tokens[4].tolist() == [*(query.tokens[4] + 1).tolist(), 0, 0]
    assert row.answer_position.unique().tolist() == [3]
    assert row.position_names == ("h", "r1", "r2", "answer", "end")
    atomic = slots.splits["atomic_ood"]
    assert (atomic.tokens[:, 2:] == 0).all()
    assert atomic.answer_position.unique().tolist() == [2]
    bridge = row.intermediates["bridge"]
    assert torch.equal(bridge, query.intermediates["bridge"] + 1)
    assert [slots.vocab[i] for i in (0, 1, 40, 41, 52)] == ["<pad>", "<e_0>", "<e_39>", "<r_0>", "<r_11>"]


def test_what_the_ids_mean_stays(task, slots):
    """Read back through the vocabulary, every split asks what it asked."""
    assert slots.splits.keys() == task.splits.keys()
    for name, queries in task.splits.items():
        others = slots.splits[name]
        words = [[slots.vocab[i] for i in row if i != 0] for row in others.tokens.tolist()]
        assert words == [[task.vocab[i] for i in row if i != task.pad_token] for row in queries.tokens.tolist()]
        assert [slots.vocab[i] for i in others.answer] == [task.vocab[i] for i in queries.answer]
        assert torch.equal(others.facts, queries.facts)
    facts = [[slots.vocab[i] for i in fact] for fact in slots.facts.tolist()]
    assert facts == [[task.vocab[i] for i in fact] for fact in task.facts.tolist()]


def test_sizes_are_the_nets(task, slots):
    assert (slots.d_vocab, slots.d_vocab_out, slots.n_ctx, slots.pad_token) == (N_TOKENS, N_TOKENS, 5, 0)
    assert (slots.n_entities, slots.chance, slots.certificate) == (40, task.chance, task.certificate)
    longer = in_answer_slots(task, d_vocab=59, n_ctx=7)
    assert longer.training.position_names == ("h", "r1", "r2", "answer", "end", "blank 5", "blank 6")
    assert longer.vocab[-1] == "</q>"


def test_a_recursive_net_is_scored_at_the_answers_place(slots):
    """A net that is made to say token 7 everywhere is right where the answer is 7."""
    sizes = {"d_vocab": N_TOKENS, "d_vocab_out": N_TOKENS, "n_blocks": 1, "h_cycles": 1, "l_cycles": 1}
    net = make_recursive_net(**sizes, token_mixing="position_mlp", n_heads=0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        net.z_H_init.zero_()
        net.z_L_init.copy_(torch.eye(12, dtype=torch.float64)[0])
        net.W_U[0, 7] = 1.0
    splits = {name: slots.splits[name] for name in ("atomic_id", "test_ood")}
    scores = split_scores(net, replace(slots, splits=splits, training=splits["test_ood"]))
    for name, queries in splits.items():
        assert scores[name].accuracy == pytest.approx((queries.answer == 7).double().mean().item())
    assert scores["atomic_id"].accuracy > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"d_vocab": 58, "n_ctx": 3}, "n_ctx must be at least 4, for h, r1, r2 and the answer's place, got 3"),
        ({"d_vocab": 52}, r"d_vocab = 52 ids, but the queries of .* need 53 \(.*up to <r_11>\)"),
        ({"d_vocab": 60}, "d_vocab = 60 ids, .* with all of its vocabulary there are 59"),
    ],
)
def test_a_net_that_does_not_fit_is_refused(task, arguments, message):
    with pytest.raises(InputError, match=message):
        in_answer_slots(task, **arguments)


def test_a_task_without_a_file_has_its_pad_token_last():
    task = TwoHopTask.from_config(TwoHopConfig(n_entities=30, n_relations=10, out_degree=10, ood_share=0.1))
    slots = in_answer_slots(task, d_vocab=41)
    assert slots.vocab == ("<pad>", *task.vocab[:-1])
    assert slots.training.tokens.max() == 40
