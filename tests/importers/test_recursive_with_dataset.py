"""A recursive net on a dataset folder: asked in its own layout, and saved so that it is asked that way again."""

import json
from pathlib import Path

import pytest
import torch
from recursive_nets import golden_parameters, make_recursive_net

from circuit_lab.errors import InputError
from circuit_lab.importers import AtChance, load
from circuit_lab.tasks import build_task, in_answer_slots, read_dataset_folder
from circuit_lab.training import load_checkpoint, save_checkpoint
from circuit_lab.training.evaluation import split_scores

FOLDER = Path(__file__).parent.parent / "golden" / "two_hop_natural"
N_TOKENS = 58


@pytest.fixture(scope="module")
def plain():
    return read_dataset_folder(FOLDER)


@pytest.fixture(scope="module")
def net():
    return make_recursive_net(d_vocab=N_TOKENS, d_vocab_out=N_TOKENS, dtype=torch.float32)


@pytest.fixture(scope="module")
def saved(plain, net, tmp_path_factory):
    task = in_answer_slots(plain, d_vocab=N_TOKENS)
    path = tmp_path_factory.mktemp("recursive") / "net.safetensors"
    return save_checkpoint(path, net=net, task=task, step=1, metrics={})


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """The golden attention net with as many tokens as the dataset has, saved by torch with its settings beside it."""
    state, generator = golden_parameters("attention_rope"), torch.Generator().manual_seed(0)
    for name in ("embed_tokens.embedding_weight", "lm_head.weight"):
        state[name] = torch.randn(N_TOKENS, 16, generator=generator)
    folder = tmp_path_factory.mktemp("trm")
    torch.save(state, folder / "step_20")
    settings = {
        "H_cycles": 2,
        "L_cycles": 3,
        "num_heads": 2,
        "pos_encodings": "rope",
        "seq_len": 5,
        "puzzle_emb_len": 2,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder / "step_20"


def test_an_imported_net_is_asked_with_a_place_for_the_answer(foreign, plain):
    with pytest.warns(AtChance, match="near chance"):
        checkpoint = load(foreign, task=FOLDER, config=foreign.with_name("config.json"))
    assert checkpoint.task.n_ctx == 5
    assert checkpoint.step == 20
    expected = split_scores(checkpoint.net, in_answer_slots(plain, d_vocab=N_TOKENS))
    assert checkpoint.metrics == {name: score.accuracy for name, score in expected.items()}
    assert any("blank place for its answer" in note for note in checkpoint.origin.inferred)


def test_a_saved_net_is_asked_the_same_way_again(saved, plain):
    task = load_checkpoint(saved).task
    expected = in_answer_slots(plain, d_vocab=N_TOKENS)
    assert torch.equal(task.splits["test_ood"].tokens, expected.splits["test_ood"].tokens)
    assert torch.equal(task.training.answer, expected.training.answer)
    assert task.config == expected.config


def test_the_folder_may_be_given_again_from_elsewhere(saved, plain):
    assert load_checkpoint(saved, task=plain).task.n_ctx == 5


def test_the_layout_is_part_of_the_config(plain):
    slots = in_answer_slots(plain, d_vocab=N_TOKENS, n_ctx=6)
    again = build_task(slots.config)
    assert torch.equal(again.training.tokens, slots.training.tokens)
    assert again.certificate == plain.certificate


def test_a_task_is_laid_out_once(plain):
    slots = in_answer_slots(plain, d_vocab=N_TOKENS)
    assert in_answer_slots(slots, d_vocab=N_TOKENS) is slots
    with pytest.raises(InputError, match="is laid out for AnswerSlots.* already, not for d_vocab = 57"):
        in_answer_slots(slots, d_vocab=57)


def test_a_plain_task_does_not_fit_the_net(net, plain, tmp_path):
    path = save_checkpoint(tmp_path / "net.safetensors", net=net, task=None, step=0, metrics={})
    with pytest.raises(InputError, match=r"net with d_vocab = 58, but TwoHopTask.* has d_vocab = \d+"):
        load_checkpoint(path, task=plain)


@pytest.mark.slow
def test_a_recursive_net_is_diagnosed(saved):
    import circuit_lab

    diagnosis = circuit_lab.diagnose(saved, n_partners=3, max_queries_per_split=20)
    assert diagnosis.verdict == "untrained"
    assert diagnosis.net.startswith("recursive transformer")


def test_a_config_that_asks_for_a_huge_prefix_is_refused(foreign, tmp_path):
    settings = json.loads(foreign.with_name("config.json").read_text()) | {"puzzle_emb_len": 2**70}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="n_prefix: Input should be less than or equal to 4096"):
        load(foreign, config=tmp_path / "config.json")
