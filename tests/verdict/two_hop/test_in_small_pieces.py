"""A diagnosis that may keep little at once: the same evidence, in small pieces."""

import pytest
import torch

from circuit_lab.measures import bridge_recovery, causal_tests, locate_sites, partner_fitness, predicted_answers
from circuit_lab.measures.sites import OutputSite, Place, Site, n_state_rows, site_states
from circuit_lab.measures.two_hop.locate import _Hop1Trial
from circuit_lab.nets import RecursiveTransformerConfig, build_net, memory
from circuit_lab.verdict import checks, diagnose

ROWS_AT_ONCE = 7


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def little_memory(monkeypatch, noisy_circuit):
    """Passes of a few queries, and states of a few of them kept; tells the sizes of the passes made."""
    numbers = 4 * noisy_circuit.cfg.widest_activation(3) + 3 * noisy_circuit.cfg.d_model
    sizes = []

    def little():
        monkeypatch.setattr(memory, "PASS_BYTES", ROWS_AT_ONCE * numbers * noisy_circuit.dtype.itemsize)
        monkeypatch.setattr(memory, "STATES_BYTES", 100 * 3 * noisy_circuit.cfg.d_model * noisy_circuit.dtype.itemsize)
        hook = noisy_circuit.unembed.register_forward_pre_hook(lambda _, states: sizes.append(len(states[0])))
        return sizes, hook.remove

    return little


def measured(net, task):
    """Everything a diagnosis reads, by its parts."""
    training, asked = task.splits["train_inferred"], task.splits["test_ood"][:60]
    sites = [Site("resid_post 0", (1,)), Site("resid_post 0", (2,))]
    fitness = partner_fitness(net, training, sites=sites, generator=seeded(2))
    tests = causal_tests(net, asked, training, sites=sites, generator=seeded(3))
    located = locate_sites(net, training[:40], training[40:], generator=seeded(4))
    lens = bridge_recovery(net, asked)
    return {
        "answers": predicted_answers(net, asked),
        "lends": fitness.lends,
        "receives": fitness.receives,
        **{f"{name} passed": getattr(tests, name).passed for name in ("hop1", "hop2", "interchange")},
        **{f"{name} control": getattr(tests, name).control for name in ("hop1", "hop2")},
        "rates": torch.tensor([(c.rate, c.mixed_rate, c.placebo_rate) for c in located.candidates]),
        "lens": torch.stack([lens.bridge_mrr, lens.answer_mrr]),
    }


def test_the_evidence_is_the_same_in_small_pieces(noisy_circuit, small_task, little_memory):
    """But for the control of the interchange, whose random directions are drawn in another order."""
    whole = measured(noisy_circuit, small_task)
    sizes, stop = little_memory()
    in_pieces = measured(noisy_circuit, small_task)
    stop()
    assert max(sizes) <= ROWS_AT_ONCE
    for name, values in whole.items():
        torch.testing.assert_close(in_pieces[name], values, msg=lambda told, name=name: f"{name}: {told}")
    assert 0 < whole["hop1 passed"].double().mean() < 1


def test_the_verdict_is_the_same_in_small_pieces(noisy_circuit, small_task, little_memory):
    whole = diagnose((noisy_circuit, small_task))
    _, stop = little_memory()
    in_pieces = diagnose((noisy_circuit, small_task))
    stop()
    assert in_pieces.verdict == whole.verdict
    assert in_pieces.outcomes == whole.outcomes
    assert in_pieces.sites == whole.sites


@pytest.mark.parametrize(
    "site",
    [
        Site("H0.L0", (1,)),
        Site("H0.L1", (0, 1), held=True),
        OutputSite((Place(layer=0, component="attn_out", position=1),)),
    ],
)
def test_rows_are_counted_as_they_are_kept(site):
    sizes = {"n_blocks": 1, "h_cycles": 2, "l_cycles": 2, "d_model": 8, "n_heads": 2, "d_vocab": 8, "n_ctx": 3}
    net = build_net(RecursiveTransformerConfig(**sizes, n_prefix=2)).eval()
    tokens = torch.randint(8, (5, 3), generator=seeded())
    assert site_states(net, tokens, site=site).shape == (5, n_state_rows(net, site, 3), 8)


def test_larger_sets_are_answered_on_a_sample(noisy_circuit, small_task, monkeypatch):
    """Training items and the splits without causal tests; the words say so of the first."""
    n = len(small_task.training)
    whole = diagnose((noisy_circuit, small_task), max_queries_per_split=50)
    assert n_of("all training items", whole) == n
    monkeypatch.setattr(checks, "MAX_ANSWERED", 40)
    sampled = diagnose((noisy_circuit, small_task), max_queries_per_split=50)
    assert n_of("all training items", sampled) == n_of("atomic_id", sampled) == 40
    assert n_of("train_inferred", sampled) == 50
    words = f"training items: read on a sample of 40 of {n}."
    assert words in sampled.warnings and words not in whole.warnings


def n_of(split, diagnosis):
    return next(row.n for row in diagnosis.evidence if row.name == "accuracy" and row.split == split)


def test_outputs_that_are_not_kept_are_computed_anew(noisy_circuit, small_task, monkeypatch):
    training = small_task.splits["train_inferred"]

    def rates():
        trial = _Hop1Trial(
            noisy_circuit, training[:40], training[40:], generator=seeded(4), n_partners=4, batch_size=8192
        )
        return trial, [trial.rate(OutputSite((place,))) for place in trial.places]

    keeping, whole = rates()
    monkeypatch.setattr(memory, "STATES_BYTES", 1000)
    computing, anew = rates()
    assert keeping._keeps_outputs and not computing._keeps_outputs
    assert whole == anew
    for place in keeping.places:
        own, receiver, mate = keeping._states(OutputSite((place,)))
        its_own, its_receiver, its_mate = computing._states(OutputSite((place,)))
        torch.testing.assert_close((own, mate), (its_own, its_mate))
        torch.testing.assert_close(receiver[:, :-1], its_receiver[:, :-1])  # the last is not read
    assert max(rate.rate for rate in whole) > 0
