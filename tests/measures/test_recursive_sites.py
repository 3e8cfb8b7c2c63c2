"""States of a recursive net: read, run on from, and patched, against whole passes with hooks of our own."""

import pytest
import torch
from recursive_nets import FIRST_FAST, kept_recursive_net, recursive_tokens

from circuit_lab.measures import OutputSite, Place, Site, inner_stages, site_states
from circuit_lab.measures.hooked_model import (
    activations,
    answer_logits,
    has_several_streams,
    lens_sites,
    mixer_of,
    n_prefix,
    resume_states,
    resumed_logits,
    rows_of,
    states_at,
)
from circuit_lab.measures.sites import output_places, patched_logits, patched_parts, shares_states, stage_before
from circuit_lab.nets import RecursiveTransformerConfig, build_net

POSITION = torch.tensor([0, 1, 2, 3, 4, 3])
SETS = [(1,), (0, 1), (2, 4), (0, 1, 2, 3)]


@pytest.fixture(scope="module", params=FIRST_FAST)
def net(request):
    return kept_recursive_net(request.param)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def patched(net, site, receiver, source, position=POSITION):
    states = {name: site_states(net, tokens, site=site) for name, tokens in (("r", receiver), ("s", source))}
    return patched_logits(
        net, site=site, receiver_states=states["r"], source_states=states["s"], answer_position=position
    )


def whole_pass(net, receiver, source, writes):
    """The receivers' logits in one pass, with the sources' activations put in at (hook name, token position)."""
    names = {name for name, _ in writes}
    lent = activations(net, source, sorted(names))

    def write(activation, hook):
        for name, position in writes:
            if name == hook.name:
                activation[:, net.cfg.n_prefix + position] = lent[name][:, net.cfg.n_prefix + position]
        return activation

    logits = net.run_with_hooks(receiver, fwd_hooks=[(name, write) for name in sorted(names)])
    return logits[torch.arange(len(receiver)), POSITION]


def writes_of(net, site):
    stages = [site for site in net.lens_sites if site.label in inner_stages(net)]
    first = [stage.label for stage in stages].index(site.stage)
    reached = stages[first:] if site.held else stages[first : first + 1]
    return [(stage.hook_name, position) for stage in reached for position in site.positions]


@torch.no_grad()
@pytest.mark.parametrize("held", [False, True])
def test_a_patch_equals_a_whole_pass_with_hooks(net, held):
    """At every stage of both streams, whichever positions; the prefix and the other stream stay the receiver's."""
    receiver, source = recursive_tokens(seed=1), recursive_tokens(seed=2)
    own = net(receiver)[torch.arange(6), POSITION]
    for stage in inner_stages(net):
        for positions in SETS:
            site = Site(stage, positions, held)
            found = patched(net, site, receiver, source)
            close(found, whole_pass(net, receiver, source, writes_of(net, site)))
            assert (found - own).abs().max() > 1e-6, site


@torch.no_grad()
def test_outputs_are_put_where_hooks_put_them(net):
    """Within a step of two blocks, across steps, and of both components."""
    receiver, source = recursive_tokens(seed=1), recursive_tokens(seed=2)
    mixer, last = f"{mixer_of(net)}_out", net.cfg.n_layers - 1
    for places in [
        (Place(1, "mlp_out", 1), Place(4, mixer, 3)),
        (Place(3, mixer, 0), Place(3, "mlp_out", 4)),
        (Place(last, mixer, 2),),
    ]:
        found = patched(net, OutputSite(places), receiver, source)
        close(found, whole_pass(net, receiver, source, [(place.hook_name, place.position) for place in places]))
    assert {place.component for place in output_places(net, 5)} == {mixer, "mlp_out"}
    assert len(output_places(net, 5)) == (2 * net.cfg.n_layers - 1) * 5


@torch.no_grad()
def test_a_state_put_into_its_own_query_changes_nothing(net):
    tokens = recursive_tokens()
    own = net(tokens)[torch.arange(6), POSITION]
    outputs = OutputSite((Place(1, "mlp_out", 1), Place(5, "mlp_out", 0)))
    for site in (Site("H0.L1", (0, 1)), Site("H0.commit", (2,)), Site("H1.L0", (1, 4), held=True), outputs):
        close(patched(net, site, tokens, tokens), own)


@torch.no_grad()
def test_states_are_read_at_the_tokens_and_run_on_from_as_a_whole(net):
    tokens = recursive_tokens()
    expected = net(tokens)[torch.arange(6), POSITION]
    close(answer_logits(net, tokens, POSITION), expected)
    for site in lens_sites(net):
        whole = activations(net, tokens, [site.hook_name])[site.hook_name]
        assert torch.equal(states_at(net, tokens, stage=site.label, batch_size=4), whole[:, n_prefix(net) :])
        rows = resume_states(net, tokens, stage=site.label, batch_size=4)
        assert torch.equal(rows[:, rows_of(net, range(5))], whole[:, n_prefix(net) :])
        close(resumed_logits(net, rows, POSITION, start_at=site.label), expected)


def test_the_stage_before_a_place_inside_a_step():
    """With two blocks a step: layers 0 and 1 make "H0.L0", layers 6 and 7 the commit."""
    net = kept_recursive_net("plain")
    layers = {0: "embed", 1: "embed", 2: "H0.L0", 5: "H0.L1", 7: "H0.L2", 8: "H0.commit"}
    assert {layer: stage_before(net, OutputSite((Place(layer, "mlp_out", 0),))) for layer in layers} == layers


def test_parts_of_a_site_are_its_positions_or_its_places():
    """Prefix of 2: position p is row 2 + p; of a held site each later inner stage has one row more per position."""
    net = kept_recursive_net("plain")
    assert patched_parts(net, Site("H1.L0", (1, 4)), 21) == [[3], [6]]
    held = Site("H1.L0", (1, 4), held=True)
    n_rows = site_states(net, recursive_tokens(), site=held).shape[1]
    assert n_rows == 21 + 2 * 2  # H1.L1 and H1.L2
    assert patched_parts(net, held, n_rows) == [[3, 21, 23], [6, 22, 24]]
    assert patched_parts(net, OutputSite((Place(0, "mlp_out", 0), Place(4, "mlp_out", 2))), 9) == [[7], [8]]
    assert not shares_states(held, Site("H1.L0", (1, 4))) and not shares_states(held, Site("H1.L0", (1,), held=True))
    assert has_several_streams(net)


def signs_net():
    """One number wide, so that each norm leaves the sign; a layer gives sign(s_p + 2 sum(s)) at position p."""
    sizes = {"n_blocks": 1, "h_cycles": 2, "l_cycles": 1, "d_model": 1, "n_heads": 1, "n_ctx": 3}
    net = build_net(RecursiveTransformerConfig(**sizes, d_vocab=5, d_vocab_out=2, eps=1e-12)).double().eval()
    with torch.no_grad():
        for parameter in (*net.parameters(), net.z_L_init, net.z_H_init):
            parameter.zero_()
        net.embed.W_E[:, 0] = torch.tensor([1.0, -2.0, 4.0, -1.0, -4.0])
        net.blocks[0].attn.W_V.fill_(1.0)
        net.blocks[0].attn.W_O.fill_(6.0)  # queries and keys are 0, so attention is the mean over three positions
        net.unembed.W_U[0] = torch.tensor([2.0, -3.0])
    return net


@torch.no_grad()
def test_patches_by_hand():
    """The receiver reads x = (1, -2, 4), the source (-1, -2, -4); unpatched, every state is +1 and -1 in turn.

    * z_L after the first step, positions 0 and 1: z_L = (-, -, +), so z_H = sign(-3, -3, -1) is all -; then z_L + z_H +
      x = (-1, -4, 4), whose sum is -1: z_L = sign(-3, -6, 2); z_H = sign(-10, -10, -8): all -.
    * z_H after the first commit: z_H = (-, -, +), and z_L is still the receiver's: (1, -2, 6) makes z_L all +, and
      z_H + z_L = (0, 0, 2) makes z_H all +: nothing has changed.
    * held from there on: z_L = (-, -, +) again, and z_H + z_L = (-2, -2, 2) makes z_H all -.
    """
    net, receiver, source = signs_net(), torch.tensor([[0, 1, 2]]), torch.tensor([[3, 1, 4]])
    plus, minus = torch.tensor([[2.0, -3.0]]).double(), torch.tensor([[-2.0, 3.0]]).double()
    last = torch.tensor([2])
    for expected, tokens in ((plus, receiver), (minus, source)):
        torch.testing.assert_close(net(tokens, answer_only=True), expected, rtol=0, atol=1e-9)
    for expected, site in (
        (minus, Site("H0.L0", (0, 1))),
        (plus, Site("H0.L0", (1,))),
        (plus, Site("H0.commit", (0, 1))),
        (minus, Site("H0.commit", (0, 1), held=True)),
    ):
        torch.testing.assert_close(patched(net, site, receiver, source, last), expected, rtol=0, atol=1e-9)
