"""Attribution patching of recursive nets: by a small patch with our own hooks, by completeness; what is refused."""

from functools import cache

import pytest
import torch
from recursive_nets import MLP, make_recursive_net, recursive_tokens

from circuit_lab.measures.attribution.attribution_patching import attribution_patching
from circuit_lab.measures.attribution.edge_attribution import edge_attribution_patching
from circuit_lab.measures.attribution.path_patching import path_patching
from circuit_lab.measures.hooked_model import answer_logits
from circuit_lab.measures.metrics import METRICS, target_of
from circuit_lab.measures.patching.query_pairs import QueryPairs
from circuit_lab.measures.readings.direct_logit_attribution import direct_logit_attribution
from circuit_lab.tasks import queries_from_tokens

KINDS = ("resid", "resid_pre", "resid_mid", "resid_post", "mlp_out")
NETS = {
    "rotary": ({"positions": "rotary", "l_cycles": 1}, (*KINDS, "attn_out", "z", "q", "k", "v", "pattern")),
    "learned, one block": ({"positions": "learned", "n_blocks": 1, "l_cycles": 2, "n_prefix": 0}, (*KINDS, "attn_out")),
    "position MLP": ({**MLP, "l_cycles": 1}, (*KINDS, "pos_mlp_out")),
}
ANSWER_POSITION = torch.tensor([2, 2, 1])
SMALL = 1e-5


@cache
def kept_net(name):
    return make_recursive_net(n_ctx=3, **NETS[name][0])


def pairs_of():
    answers = torch.randint(13, (2, 3), generator=torch.Generator().manual_seed(3))
    return QueryPairs(
        *(
            queries_from_tokens(recursive_tokens(3, seed=seed, n_ctx=3), answer, answer_position=ANSWER_POSITION)
            for seed, answer in zip((1, 2), answers, strict=True)
        ),
        "unrelated",
    )


@torch.no_grad()
def effect_of_a_small_patch(net, pairs, hook_name, index):
    """A central difference along the patch, by a hook in whole passes."""
    clean, corrupt = pairs.clean, pairs.corrupt
    _, lending = net.run_with_cache(clean.tokens)
    _, receiving = net.run_with_cache(corrupt.tokens)

    def metric(queries, *hooks):
        logits = answer_logits(net, queries.tokens, queries.answer_position, fwd_hooks=hooks)
        target = target_of(logits_of_clean, answer=clean.answer, other_answer=corrupt.answer)
        return target.metrics(logits)[METRICS.index("logit_diff")]

    logits_of_clean = answer_logits(net, clean.tokens, clean.answer_position)

    def patched(share):
        def put(activation, hook):
            activation = activation.clone()
            activation[index] += share * (lending[hook.name] - receiving[hook.name])[index]
            return activation

        return metric(corrupt, (hook_name, put))

    return (patched(SMALL) - patched(-SMALL)) / (2 * SMALL)


@pytest.mark.parametrize("name", [pytest.param("rotary", marks=pytest.mark.slow), *[*NETS][1:]])
def test_nodes_equal_a_small_patch(name):
    net, pairs, kinds = kept_net(name), pairs_of(), NETS[name][1]
    result = attribution_patching(net, pairs, kinds=list(kinds))
    n_prefix = net.cfg.n_prefix
    for kind in kinds:
        effects = result.effects[kind]
        assert effects.abs().max() > 1e-6, kind
        for number, cell in enumerate(torch.cartesian_prod(*map(torch.arange, effects.shape[:-1])).tolist()):
            if number % 5:
                continue
            layer, position, *head = cell
            if kind == "resid":
                hook_name = net.lens_sites[layer].hook_name
            else:
                hook_name = f"blocks.{layer}.{'attn.' if head else ''}hook_{kind}"
            row = n_prefix + position
            index = (slice(None), head[0], row) if kind == "pattern" else (slice(None), row, *head)
            expected = effect_of_a_small_patch(net, pairs, hook_name, index)
            torch.testing.assert_close(effects[tuple(cell)], expected, rtol=1e-5, atol=1e-7, msg=f"{kind} {cell}")


@pytest.mark.slow
def test_the_embedding_is_complete():
    """With integrated gradients its scores add up to the metric's difference, though every inner step reads it."""
    net, pairs = kept_net("learned, one block"), pairs_of()
    result = attribution_patching(net, pairs, kinds=["resid"], n_steps=200)
    whole = result.lending - result.receiving
    torch.testing.assert_close(result.effects["resid"][0].sum(0), whole, rtol=1e-3, atol=1e-4)
    assert whole.abs().max() > 1e-2
    assert result.labels("resid")[:4] == ["embed @ 0", "embed @ 1", "embed @ 2", "H0.L0 @ 0"]


def test_labels_name_the_steps():
    result = attribution_patching(kept_net("rotary"), pairs_of(), kinds=["z", "mlp_out"])
    assert result.labels("z")[0] == "z H0.L0 block 0.0 @ 0"
    assert result.labels("mlp_out")[-1] == "mlp_out H1.commit block 1 @ 2"


@pytest.mark.parametrize("measure", [path_patching, edge_attribution_patching])
def test_edges_are_refused(measure):
    with pytest.raises(ValueError, match="edges need a stream that is the sum .* got a recursive transformer"):
        measure(kept_net("rotary"), pairs_of())


def test_direct_logit_attribution_is_refused():
    with pytest.raises(ValueError, match="direct logit attribution needs .* recursive transformer: .* ablate"):
        direct_logit_attribution(kept_net("rotary"), pairs_of().clean)


def test_kinds_that_a_net_has_not():
    with pytest.raises(ValueError, match="so there is no z; its output is pos_mlp_out"):
        attribution_patching(kept_net("position MLP"), pairs_of(), kinds=["mlp_out", "z"])
