"""Recursive nets, with two streams: hand-wired ones of known mechanism, untrained ones, and one with random labels."""

import pytest
import torch

from circuit_lab.measures import Site, predicted_answers
from circuit_lab.measures.two_hop.locate import _Hop1Trial
from circuit_lab.nets import RecursiveTransformerConfig, build_net
from circuit_lab.tasks import in_answer_slots
from circuit_lab.training import parse_recipe, train
from circuit_lab.verdict import Verdict, diagnose

R1, R2 = 1, 2
AND, HARD, NEVER = 10.0, 60.0, -1000.0


def wired(task, *, lacking=None):
    """One table of all facts in a recursive net, read in every step: at r1 of (h, r1), at r2 of (bridge, r2).

    Coordinates: the position's own token, what attention fetches, what the table says, the position. r1 fetches h's
    token, r2 what the table said at r1; a neuron silu(fetched) * own is an "and". `lacking` is a position at which the
    OOD facts' neurons stay silent.
    """
    v = task.d_vocab
    own, fetched, said, place = 0, v, 2 * v, 3 * v
    sizes = {"n_blocks": 1, "h_cycles": 2, "l_cycles": 2, "d_model": 3 * v + 3, "d_vocab": v, "n_ctx": 3}
    net = build_net(RecursiveTransformerConfig(**sizes, n_heads=1, positions="learned"))
    block, facts, tokens = net.blocks[0], task.facts, torch.arange(v)
    with torch.no_grad():
        for weight in (*net.parameters(), net.z_L_init, net.z_H_init):
            weight.zero_()
        net.embed.W_E[tokens, own + tokens] = 1.0
        net.pos_embed.W_pos[range(3), range(place, place + 3)] = 1.0
        for position, source in enumerate((0, 0, 1)):
            block.attn.W_Q[0, place + position, source] = HARD
            block.attn.W_K[0, place + position, position] = 1.0
        block.attn.W_V[0, own + tokens, tokens] = block.attn.W_V[0, said + tokens, tokens] = 1.0
        block.attn.W_O[0, tokens, fetched + tokens] = 1.0
        neuron = torch.arange(len(facts))
        block.mlp.W_gate[fetched + facts[:, 0], neuron] = AND
        block.mlp.W_in[own + facts[:, 1], neuron] = 1.0
        block.mlp.W_out[neuron, said + facts[:, 2]] = 1.0 / AND
        if lacking is not None:
            block.mlp.W_gate[place + lacking, neuron[task.is_ood]] = NEVER
        net.unembed.W_U[said + tokens, tokens] = 1.0
    return net.eval()


def test_a_single_patch_is_overwritten_and_a_held_one_is_not(small_task):
    """r1's state after the first step has the bridge; then the receiver's own tokens are read again and outvote it."""
    net, everything = wired(small_task), small_task.splits["test_ood"]
    assert torch.equal(predicted_answers(net, everything), everything.answer)
    training, generator = small_task.splits["train_inferred"], torch.Generator().manual_seed(0)
    trial = _Hop1Trial(net, training[:40], training[40:], generator=generator, n_partners=3, batch_size=999)
    rates = {
        (held, position): trial.rate(Site("H0.L0", (position,), held)).deciding_rate
        for held in (False, True)
        for position in (0, R1, R2)
    }
    assert rates.pop((True, R1)) == 1.0
    assert max(rates.values()) < 0.2, rates


MECHANISMS = {
    "true circuit": (None, "circuit", Verdict.TRUE_CIRCUIT),
    "the first read lacks the OOD facts": (R1, "first_hop_failure", None),
    "the second read lacks the OOD facts": (R2, "second_hop_failure", Verdict.SECOND_HOP_FAILURE),
}
"""Position that lacks them, outcome on `test_ood`, verdict; where r1 lacks them, the atomic OOD facts are lost, too."""


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_hand_wired_recursive_nets_are_told_apart(small_task, mechanism):
    lacking, outcome, verdict = MECHANISMS[mechanism]
    diagnosis = diagnose((wired(small_task, lacking=lacking), small_task))
    shares = {split.split: split.shares for split in diagnosis.outcomes}
    assert shares["test_ood"][outcome] > 0.9
    assert shares["test_id"]["circuit"] > 0.85 and shares["test_id"]["shortcut"] == 0  # the rest: too few partners
    assert all(site.endswith("@ r1") for site in diagnosis.sites), diagnosis.sites
    if verdict is not None:
        assert diagnosis.verdict == verdict and diagnosis.confidence >= 0.99


@pytest.mark.slow
def test_a_random_net_with_prefix_and_answer_slots_is_untrained(small_task):
    """Five positions a row, the answer in a blank one, behind a prefix of two; token mixing by an MLP."""
    task = in_answer_slots(small_task, d_vocab=small_task.d_vocab)
    sizes = {"n_blocks": 2, "h_cycles": 1, "l_cycles": 2, "d_model": 12, "n_ctx": 5, "n_prefix": 2}
    config = RecursiveTransformerConfig(**sizes, token_mixing="position_mlp", d_vocab=task.d_vocab)
    diagnosis = diagnose((build_net(config), task))
    assert diagnosis.verdict == Verdict.UNTRAINED
    assert not [e for e in diagnosis.evidence if e.name == "right answers through the bridge" and e.value]
    assert {"H0.L0 @ h+r1", "H0.L0 on @ r1"} <= set(diagnosis.measurements.located.frame()["site"])


@pytest.mark.slow
def test_random_labels_learnt_by_heart_are_no_circuit(tmp_path):
    """The same training with every two-hop answer exchanged for another's: nothing can go through a bridge."""
    tables = {
        "task": {
            "kind": "two_hop",
            "n_entities": 20,
            "n_relations": 8,
            "out_degree": 8,
            "ood_share": 0.34,
            "test_id_share": 0.15,
            "shuffled_answers": True,
        },
        "net": {
            "kind": "recursive_transformer",
            "n_blocks": 1,
            "h_cycles": 2,
            "l_cycles": 2,
            "d_model": 32,
            "n_heads": 4,
            "positions": "learned",
        },
        "optimizer": {"learning_rate": 2e-3, "weight_decay": 0.1, "betas": [0.9, 0.99], "warmup_steps": 50},
        "training": {"n_steps": 1500, "batch_size": 64},
        "evaluation": {"every": 500},
        "checkpoints": {"every": 1500},
    }
    run = train(parse_recipe(tables, source="a test"), tmp_path / "run", device="cpu", progress=False).run
    diagnosis = diagnose(run)
    assert diagnosis.verdict == Verdict.MEMORISING, diagnosis.reasons
    assert diagnosis.sites == ()
    assert not any(split.shares["circuit"] for split in diagnosis.outcomes)
