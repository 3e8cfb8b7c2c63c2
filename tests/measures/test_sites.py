"""States at a site and patches there, against hooks of our own."""

import pytest
import torch
from small_nets import capture, make_net, make_tokens

from circuit_lab.measures import OutputSite, Place, Site, site_states
from circuit_lab.measures.sites import lens_places, output_places, patched_logits, shares_states

PLACES = (Place(0, "mlp_out", 1), Place(1, "attn_out", 3), Place(1, "mlp_out", 1))
LAST = torch.full((6,), 3)


@pytest.fixture(scope="module", params=["pre", "post"])
def net(request):
    return make_net(norm_position=request.param)


def patched(net, site, receiver, source):
    states = {name: site_states(net, tokens, site=site) for name, tokens in (("r", receiver), ("s", source))}
    return patched_logits(net, site=site, receiver_states=states["r"], source_states=states["s"], answer_position=LAST)


@pytest.mark.parametrize("places", [PLACES, PLACES[1:], (Place(2, "attn_out", 3),)])
def test_outputs_are_put_where_hooks_put_them(net, places):
    """From the layer of the first of them on, before which nothing is computed again."""
    receiver, source = make_tokens(seed=1), make_tokens(seed=2)
    lent = capture(net, source, *{place.hook_name for place in places})

    def hook_of(place):
        def replace(activation, hook):
            activation[:, place.position] = lent[hook.name][:, place.position]
            return activation

        return place.hook_name, replace

    expected = net.run_with_hooks(receiver, fwd_hooks=[hook_of(place) for place in places])[:, -1]
    torch.testing.assert_close(patched(net, OutputSite(places), receiver, source), expected)
    assert not torch.allclose(expected, net(receiver)[:, -1])


@pytest.mark.parametrize("site", [OutputSite(PLACES), Site("resid_post 1", (0, 2)), OutputSite(())])
def test_a_state_put_into_its_own_query_changes_nothing(net, site):
    tokens = make_tokens()
    torch.testing.assert_close(patched(net, site, tokens, tokens), net(tokens)[:, -1])


def test_all_outputs_of_the_first_layer_and_all_embeddings_make_another_query(net):
    """Both layers' outputs at every position move everything that the embedding does not."""
    receiver, source = make_tokens(seed=1), make_tokens(seed=2)
    receiver[:, 3] = source[:, 3]  # the last position's own token is not patched
    everything = OutputSite(tuple(output_places(net, 4)))
    moved = patched(net, everything, receiver, source)
    assert not torch.allclose(moved, net(receiver)[:, -1])
    last_mlp_reads = capture(net, source, "blocks.2.hook_resid_mid")["blocks.2.hook_resid_mid"][:, 3]
    mlp = net.blocks[2].mlp(net.blocks[2].ln2(last_mlp_reads) if net.blocks[2].is_pre_norm else last_mlp_reads)
    after = last_mlp_reads + mlp
    expected = net.logits_at(after if net.blocks[2].is_pre_norm else net.blocks[2].ln2(after))
    torch.testing.assert_close(moved, expected)


def test_the_places_of_a_net(net):
    places = output_places(net, 4)
    assert len(places) == (2 * 3 - 1) * 4
    assert Place(2, "mlp_out", 3) not in places  # nothing reads it but the unembedding
    assert OutputSite(PLACES).positions == (1, 3)
    seen = (("resid_post 0", 1), ("resid_post 1", 3), ("resid_post 1", 1))
    assert lens_places(OutputSite(PLACES), net.lens_sites) == seen
    assert lens_places(Site("resid_post 1", (0, 2)), net.lens_sites) == (("resid_post 1", 0), ("resid_post 1", 2))


def test_hooks_are_taken_off(net):
    patched(net, OutputSite(PLACES), make_tokens(), make_tokens(seed=2))
    assert not any(point.fwd_hooks for point in net.hook_points())


def test_sites_of_one_stage_share_their_states():
    assert shares_states(Site("embed", (0,)), Site("embed", (1, 2)))
    assert not shares_states(Site("embed", (0,)), Site("resid_post 0", (0,)))
    assert not shares_states(OutputSite(PLACES[:1]), OutputSite(PLACES[1:2]))
