"""Resuming a recursive net from any of its lens sites, and logits at the answer alone."""

import inspect

import pytest
import torch
from recursive_nets import RECURSIVE, kept_recursive_net, make_recursive_net, recursive_tokens

from circuit_lab.nets import LensSite
from circuit_lab.nets.sites import lens_sites_of_layers, sites_to_resume

POSITIONS = torch.tensor([0, 1, 2, 3, 4, 2])


def cached(net, tokens):
    """The whole pass and what it has at the lens sites; more hooks would make it compute heads apart, and round."""
    return net.run_with_cache(tokens, names_filter=[site.hook_name for site in net.lens_sites])


def resumed(net, cache, site, **kwargs):
    states = [cache[needed.hook_name] for needed in sites_to_resume(net.lens_sites, site.label)]
    return net(start_at=site.label, residual=torch.cat(states, dim=1), **kwargs)


def test_lens_sites_are_both_streams_in_order():
    net = make_recursive_net(l_cycles=1)
    assert net.lens_sites == (
        LensSite(label="embed", hook_name="hook_input", layer=0, stream="input"),
        LensSite(label="H0.L0", hook_name="blocks.1.hook_resid_post", layer=2, stream="z_L"),
        LensSite(label="H0.commit", hook_name="blocks.3.hook_resid_post", layer=4, stream="z_H"),
        LensSite(label="H1.L0", hook_name="blocks.5.hook_resid_post", layer=6, stream="z_L"),
        LensSite(label="H1.commit", hook_name="blocks.7.hook_resid_post", layer=8, stream="z_H"),
    )


def test_what_a_resume_needs():
    """Of three inner steps in two cycles: the other stream once it has been rewritten, the input while it is read."""
    sites = kept_recursive_net("plain").lens_sites
    found = {site.label: [needed.label for needed in sites_to_resume(sites, site.label)] for site in sites}
    assert found == {
        "embed": ["embed"],
        "H0.L0": ["H0.L0", "embed"],
        "H0.L1": ["H0.L1", "embed"],
        "H0.L2": ["H0.L2", "embed"],
        "H0.commit": ["H0.commit", "H0.L2", "embed"],
        "H1.L0": ["H1.L0", "H0.commit", "embed"],
        "H1.L1": ["H1.L1", "H0.commit", "embed"],
        "H1.L2": ["H1.L2", "H0.commit"],
        "H1.commit": ["H1.commit"],
    }
    assert sites_to_resume(sites, "blocks.9.hook_resid_post") == sites_to_resume(sites, "H1.L0")
    shared = lens_sites_of_layers(2)
    assert [sites_to_resume(shared, site.label) for site in shared] == [(site,) for site in shared]


@pytest.mark.parametrize("name", RECURSIVE)
def test_resuming_from_every_site_is_bit_identical(name):
    net, tokens = kept_recursive_net(name), recursive_tokens()
    whole, cache = cached(net, tokens)
    for site in net.lens_sites:
        assert torch.equal(resumed(net, cache, site), whole), site.label
        answer = resumed(net, cache, site, answer_only=True, answer_position=POSITIONS)
        torch.testing.assert_close(answer, whole[torch.arange(6), POSITIONS], rtol=0, atol=1e-12)


def test_a_resume_uses_all_that_it_is_given():
    net, tokens = kept_recursive_net("plain"), recursive_tokens()
    whole, cache = cached(net, tokens)
    states = [cache[name] for name in ("blocks.9.hook_resid_post", "blocks.7.hook_resid_post", "hook_input")]
    assert torch.equal(net(start_at="H1.L0", residual=torch.cat(states, dim=1)), whole)
    for i in range(3):
        changed = [state.roll(1, dims=0) if i == j else state for j, state in enumerate(states)]
        assert (net(start_at="H1.L0", residual=torch.cat(changed, dim=1)) - whole).abs().max() > 1e-3, i


def test_skipped_steps_fire_no_hooks():
    net, tokens = kept_recursive_net("plain"), recursive_tokens()
    _, cache = cached(net, tokens)
    fired = []
    with net.hooks(fwd_hooks=[(lambda _name: True, lambda _activation, hook: fired.append(hook.name))]):
        resumed(net, cache, net.lens_sites[6])
    assert fired[0] == "blocks.12.hook_resid_pre"
    fired.clear()
    with net.hooks(fwd_hooks=[(lambda _name: True, lambda _activation, hook: fired.append(hook.name))]):
        resumed(net, cache, net.lens_sites[8])
    assert fired == []


def test_resuming_from_a_changed_state_equals_patching_it():
    net, tokens = kept_recursive_net("rotary"), recursive_tokens()
    _, cache = cached(net, tokens)
    noise = torch.randn(6, 7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for site in net.lens_sites:
        patched = net.run_with_hooks(tokens, fwd_hooks=[(site.hook_name, lambda state, **_: state + noise)])
        changed = {**cache.cache_dict, site.hook_name: cache[site.hook_name] + noise}
        assert torch.equal(resumed(net, changed, site), patched)


def test_answer_only_equals_the_whole_at_that_position():
    net, tokens = make_recursive_net(), recursive_tokens()
    whole = net(tokens)
    answer = net(tokens, answer_only=True, answer_position=POSITIONS)
    torch.testing.assert_close(answer, whole[torch.arange(6), POSITIONS], rtol=0, atol=1e-12)
    torch.testing.assert_close(net(tokens, answer_only=True), whole[:, -1], rtol=0, atol=1e-12)
    shapes = []
    net.unembed.register_forward_hook(lambda _module, _args, output: shapes.append(output.shape))
    net(tokens, answer_only=True)
    assert shapes == [(6, 5, 13)]


def test_fewer_tokens_are_read_from_the_first_position():
    """With attention, a shorter row has the positions of a longer one's beginning."""
    net = kept_recursive_net("learned")
    _, cache = net.run_with_cache(recursive_tokens()[:, :3])
    _, whole = net.run_with_cache(recursive_tokens())
    assert torch.equal(cache["hook_input"], whole["hook_input"][:, :5])


@pytest.mark.parametrize("name", ["plain", "rotary", "learned", "no positions, no prefix"])
@pytest.mark.parametrize("n_tokens", [1, 3])
def test_states_of_shorter_queries_resume_to_the_same_logits(name, n_tokens):
    net, tokens = kept_recursive_net(name), recursive_tokens()[:, :n_tokens]
    whole, cache = cached(net, tokens)
    assert whole.shape == (6, n_tokens, 13)
    for site in net.lens_sites:
        assert torch.equal(resumed(net, cache, site), whole), site.label


STATE = torch.zeros(1, 7, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "tokens is None; give tokens, or start_at and residual to resume"),
        ({"residual": STATE}, "residual is given without start_at"),
        ({"start_at": "H0.L1"}, "start_at = 'H0.L1' needs residual, the state at 'H0.L1' and 'embed'; it is None"),
        (
            {"start_at": "H0.commit", "residual": STATE},
            r"the state at 'H0.commit' and 'H0.L2' and 'embed', of 3 to 7 positions each, .*: 9 to 21 rows; got",
        ),
        ({"start_at": "H0.commit", "residual": STATE[:, :6]}, r"9 to 21 rows; got shape \[1, 6, 12\]"),
        ({"start_at": "H1.commit", "residual": STATE[:, 5:]}, r"3 to 7 rows; got shape \[1, 2, 12\]"),
        ({"start_at": "H1.commit", "residual": STATE.repeat(1, 2, 1)}, r"3 to 7 rows; got shape \[1, 14, 12\]"),
        ({"start_at": "H2.L0", "residual": STATE}, r"no lens site 'H2.L0' in this net; it has: 'embed' \(hook_input\)"),
        ({"tokens": torch.zeros(2, 6, dtype=torch.long)}, r"pos at most n_ctx = 5, got shape \[2, 6\]"),
        ({"tokens": torch.tensor([[3, 17]])}, r"tokens must lie in 0..16 \(d_vocab = 17\), got 3..17"),
        ({"tokens": torch.tensor([[3]]), "answer_position": torch.tensor([0])}, "answer_only is False"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        kept_recursive_net("plain")(**arguments)


def test_a_position_mlp_reads_rows_of_one_length():
    net = kept_recursive_net("position MLP")
    with pytest.raises(ValueError, match=r"pos exactly n_ctx = 5, got shape \[6, 4\]"):
        net(recursive_tokens()[:, :4])
    with pytest.raises(ValueError, match=r"'H1.commit', of 7 positions each, .*: 7 rows; got shape \[1, 6, 12\]"):
        net(start_at="H1.commit", residual=torch.zeros(1, 6, 12))


def test_another_return_type_is_refused():
    with pytest.raises(ValueError, match='return_type must be "logits"'):
        forward = type(kept_recursive_net("plain")).forward
        inspect.unwrap(forward)(kept_recursive_net("plain"), recursive_tokens(), return_type="loss")
