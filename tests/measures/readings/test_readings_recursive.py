"""The readings of recursive nets read the states at the tokens' positions, of both streams."""

import math
from functools import cache

import pytest
import torch
from recursive_nets import MLP, make_recursive_net, recursive_tokens

from circuit_lab.measures.readings.attention import attention_patterns
from circuit_lab.measures.readings.cka import debiased_cka, lens_site_cka
from circuit_lab.measures.readings.geometry import bridge_geometry
from circuit_lab.measures.readings.learnt_lens import learnt_lens
from circuit_lab.measures.readings.logit_lens import logit_lens
from circuit_lab.measures.readings.probes import probe
from circuit_lab.tasks import queries_from_tokens

LABELS = ("embed", "H0.L0", "H0.commit", "H1.L0", "H1.commit")
NAMES = ["rotary", "position MLP"]


@cache
def kept_net(name):
    changes = MLP if name == "position MLP" else {"positions": "rotary"}
    return make_recursive_net(n_ctx=3, l_cycles=1, **changes)


@cache
def queries():
    tokens = recursive_tokens(40, seed=4, n_ctx=3)
    answers, bridge = torch.randint(13, (2, 40), generator=torch.Generator().manual_seed(3))
    return queries_from_tokens(tokens, answers, position_names=("h", "r1", "r2"), intermediates={"bridge": bridge % 5})


@torch.no_grad()
def states_of(net):
    """By site, the states at the tokens' positions, behind two of the prefix."""
    _, seen = net.run_with_cache(queries().tokens)
    return {site.label: seen[site.hook_name][:, 2:] for site in net.lens_sites}


@pytest.mark.parametrize("name", NAMES)
def test_logit_lens(name):
    net = kept_net(name)
    lens = logit_lens(net, queries(), targets=("bridge",), include_mid=True)
    assert [site for site in lens.sites if "mid" not in site] == list(LABELS)
    assert lens.sites[1:4] == ("resid_mid H0.L0 block 0", "resid_mid H0.L0 block 1", "H0.L0")
    bridge = queries().intermediates["bridge"]
    for label, state in states_of(net).items():
        logits = state @ net.W_U
        rank = (logits >= logits.gather(2, bridge[:, None, None].expand(-1, 3, 1))).sum(-1)
        assert torch.equal(lens.rank[0, lens.sites.index(label)], rank.T), label


def test_attention_takes_the_prefix_together():
    net = kept_net("rotary")
    patterns = attention_patterns(net, queries(), n_kept=40, control=make_recursive_net(n_ctx=3, l_cycles=1, seed=5))
    _, seen = net.run_with_cache(queries().tokens)
    names = ("prefix", "h", "r1", "r2")
    assert patterns.position_names == names and patterns.patterns.shape == (40, 8, 3, 4, 4)
    for layer in range(8):
        pattern = seen[f"blocks.{layer}.attn.hook_pattern"].detach()
        for row in range(3):
            expected = torch.cat([pattern[:, :, 2 + row, :2].sum(-1, keepdim=True), pattern[:, :, 2 + row, 2:]], dim=-1)
            torch.testing.assert_close(patterns.patterns[:, layer, :, 1 + row], expected)
        of_prefix = pattern[:, :, :2].mean(2)
        torch.testing.assert_close(patterns.patterns[:, layer, :, 0, 1:], of_prefix[..., 2:])
    assert patterns.uniform[1].tolist() == pytest.approx([0.4, 0.2, 0.2, 0.2])
    row = patterns.roles().iloc[0]
    assert row["step"] == "H0.L0 block 0" and row["entropy"] <= row["uniform_entropy"]
    assert row["uniform_entropy"] == pytest.approx(-(0.4 * math.log(0.4) + 3 * 0.2 * math.log(0.2)))


def test_a_causal_net_looks_back_alone():
    net = make_recursive_net(n_ctx=3, l_cycles=1, attention_dir="causal")
    patterns = attention_patterns(net, queries(), n_kept=40)
    assert patterns.uniform.tolist() == [
        pytest.approx(row)
        for row in ([1, 0, 0, 0], [2 / 3, 1 / 3, 0, 0], [1 / 2, 1 / 4, 1 / 4, 0], [2 / 5, 1 / 5, 1 / 5, 1 / 5])
    ]
    assert float(patterns.patterns[:, :, :, patterns.uniform == 0].abs().max()) == 0.0

    few = queries_from_tokens(queries().tokens % 4, queries().answer, position_names=("h", "r1", "r2"))
    assert lens_site_cka(net, few, position="r1").n == len(few.tokens[:, :2].unique(dim=0)) < 17


def test_attention_of_a_net_without_it():
    with pytest.raises(ValueError, match="mixes positions by an MLP"):
        attention_patterns(kept_net("position MLP"), queries())


@pytest.mark.parametrize("name", NAMES)
def test_cka(name):
    net = kept_net(name)
    cka = lens_site_cka(net, queries(), position="r1")
    _, first = queries().tokens.unique(dim=0, return_inverse=True)
    states = torch.stack([state[:, 1] for state in states_of(net).values()])
    assert cka.stages == LABELS and cka.n == int(first.max()) + 1 == 40  # every position sees all tokens
    torch.testing.assert_close(cka.cka, debiased_cka(states, states))


def test_probes_read_the_token_that_stands_there():
    """The input holds its token, one of few."""
    few = queries_from_tokens(queries().tokens % 3, queries().answer, position_names=("h", "r1", "r2"))
    probes = probe(kept_net("position MLP"), few, target="r1", n_folds=2)
    assert probes.sites == LABELS
    right = probes.accuracy.mean[0]
    assert float(right[1]) > 0.9 > float(right[0]) + 0.3


@pytest.mark.parametrize("name", NAMES)
def test_an_infinite_penalty_makes_the_learnt_lens_the_plain_one(name):
    net = kept_net(name)
    learnt = learnt_lens(net, queries(), queries(), penalties=(1e9,), n_folds=2)
    plain = logit_lens(net, queries(), targets=("bridge",))
    torch.testing.assert_close(learnt.plain_top1.mean.double(), plain.top1.mean[0].double())
    torch.testing.assert_close(learnt.top1.mean, learnt.plain_top1.mean)


@pytest.mark.parametrize("name", NAMES)
def test_geometry(name, small_task):
    part = small_task.splits["train_inferred"].sample(80, generator=torch.Generator().manual_seed(0))
    net = make_recursive_net(n_ctx=3, l_cycles=1, d_vocab=small_task.d_vocab, **(MLP if "MLP" in name else {}))
    geometry = bridge_geometry(net, {"ID": part}, n_resamples=5)
    assert geometry.stages == LABELS
    _, seen = net.run_with_cache(part.tokens)
    state = seen[net.lens_sites[2].hook_name][:, 2 + 1].detach()
    normed = state / state.norm(dim=1, keepdim=True)
    fact, bridge = part.facts[:, 0], part.intermediates["bridge"]
    cosine, pairs = normed @ normed.T, (bridge[:, None] == bridge) & (fact[:, None] != fact)
    assert pairs.any()
    low, high = float(cosine[pairs].min()), float(cosine[pairs].max())
    assert low - 1e-9 <= float(geometry.mean[0, 0, 0, 2, 1]) <= high + 1e-9
