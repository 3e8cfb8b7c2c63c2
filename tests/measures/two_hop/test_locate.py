"""Choosing sites by hand from given rates, and locating on nets whose site is known."""

import pytest
import torch

from circuit_lab.measures import OutputSite, Place, Site, SiteRate, known_good, locate_sites
from circuit_lab.measures.two_hop.locate import _better, _choose, _Hop1Trial
from circuit_lab.nets.controls import two_hop as wired

NAMES = ("h", "r1", "r2")


def rate(stage, positions, value, mixed=None, n=200, placebo=0.0):
    mixed = value if mixed is None else mixed
    return SiteRate(Site(stage, positions), rate=value, mixed_rate=mixed, n=n, placebo_rate=placebo)


def test_the_smallest_set_comes_first_with_every_stage_that_carries():
    located = _choose(
        [
            rate("resid_post 0", (1,), 0.7),
            rate("resid_post 0", (2,), 0.6),
            rate("resid_post 0", (0, 1), 1.0),
            rate("resid_post 1", (1,), 0.9),
            rate("resid_post 2", (1,), 0.2),
        ],
        NAMES,
    )
    assert located.found
    assert located.sites == (Site("resid_post 0", (1,)), Site("resid_post 1", (1,)))
    assert located.frame()["located"].tolist() == [True, False, False, True, False]


def test_a_pair_is_taken_when_no_single_position_carries_and_its_mixture_does():
    rates = [rate("resid_post 0", (1,), 0.1), rate("resid_post 0", (0, 1), 0.8, mixed=0.7)]
    assert _choose(rates, NAMES).sites == (Site("resid_post 0", (0, 1)),)


def test_a_pair_whose_mixture_fails_is_only_swapped_tokens():
    located = _choose([rate("resid_post 0", (1,), 0.2), rate("resid_post 0", (0, 1), 1.0, mixed=0.1)], NAMES)
    assert not located.found
    assert located.sites == (Site("resid_post 0", (1,)),)  # for the record: the best candidate


def test_a_pair_that_does_as_well_without_one_of_its_parts_is_not_taken():
    """1.00 and .96 of 200 are [.98, 1] and [.92, .98]; .98 reaches up to .99."""
    assert _choose([rate("resid_post 0", (0, 1), 1.0, placebo=0.96)], NAMES).found
    assert not _choose([rate("resid_post 0", (0, 1), 1.0, placebo=0.98)], NAMES).found


def test_a_placebo_is_compared_with_averaged_states_not_with_spliced_ones():
    """.60 of 200 reaches up to .67 and .80 down to .74; splicing alone may cost more than a placebo does."""

    def pair(averaged):
        site = Site("H0.L1", (0, 1))
        return SiteRate(site, rate=0.9, mixed_rate=0.5, n=200, placebo_rate=0.6, averaged_rate=averaged)

    assert _choose([pair(0.8)], NAMES).found
    assert not _choose([pair(0.7)], NAMES).found
    assert not _choose([pair(None)], NAMES).found


def test_a_larger_set_is_taken_where_it_certainly_carries_more_and_the_smaller_one_not_most():
    """.52 of 200 is [.45, .59], .72 down to .65 and .64 down to .57; .60 is [.53, .67], which is most."""
    pair, close = rate("H0.L1", (0, 1), 0.72), rate("H0.L1", (0, 1), 0.64)
    assert _choose([rate("H0.L1", (1,), 0.52), pair], NAMES).sites == (pair.site,)
    assert _choose([rate("H0.L1", (1,), 0.52), close], NAMES).sites == (Site("H0.L1", (1,)),)
    assert _choose([rate("H0.L1", (1,), 0.6), pair], NAMES).sites == (Site("H0.L1", (1,)),)


def test_a_quarter_is_not_enough_and_small_samples_are_not_either():
    """28 % of 200 and 50 % of 10: both intervals reach below one quarter."""
    for candidate in (rate("resid_post 0", (1,), 0.28), rate("resid_post 0", (1,), 0.5, n=10)):
        assert not _choose([candidate], NAMES).found
    assert _choose([rate("resid_post 0", (1,), 0.33)], NAMES).found


def test_no_candidates():
    located = _choose([], NAMES)
    assert (located.found, located.sites) == (False, ())
    other = _choose([rate("resid_post 0", (1,), 0.4)], NAMES)
    assert _better(located, other).sites == other.sites
    assert _better(other, located).sites == other.sites


def test_a_later_site_is_taken_only_if_it_carries_the_bridge_certainly_more_often():
    """.40 of 200 reaches up to .47; .50 down to .43, .60 down to .53."""
    first = _choose([rate("resid_post 0", (1,), 0.4)], NAMES)
    same, more = (_choose([rate("resid_post 1", (2,), value)], NAMES) for value in (0.5, 0.6))
    assert _better(first, same).sites == first.sites
    better = _better(first, more)
    assert better.sites == more.sites and better.found
    assert [c.rate for c in better.candidates] == [0.4, 0.6]
    nowhere = _choose([rate("resid_post 0", (1,), 0.1)], NAMES)
    assert _better(nowhere, first).sites == first.sites
    assert not _better(nowhere, nowhere).found


def out(layer, component, position):
    return Place(layer, component, position)


WIRED = {
    "true circuit": (wired.fact_table_read_twice, Site("resid_post 0", (1,))),
    "unshared": (lambda facts, d_vocab: wired.fact_table_read_twice(facts, d_vocab=d_vocab, shared=False), None),
    "bridge at h": (wired.bridge_at_h, Site("resid_post 0", (0,))),
    "half of the bridge at h": (wired.split_bridge, Site("resid_post 0", (0, 1))),
    "bridge beside r2": (wired.bridge_at_r2, OutputSite((out(0, "mlp_out", 2),))),
    "three paths": (wired.duplicate_paths, OutputSite((out(0, "mlp_out", 1), out(0, "mlp_out", 2)))),
}


def locate(task, net):
    training = task.splits["train_inferred"]
    return locate_sites(net, training[:80], known_good(net, training[80:250]), generator=torch.manual_seed(0))


@pytest.mark.parametrize("mechanism", WIRED)
def test_a_bridge_is_found_where_it_was_wired(small_task, mechanism):
    make, site = WIRED[mechanism]
    located = locate(small_task, make(small_task.facts, d_vocab=small_task.d_vocab))
    assert located.found
    assert located.sites == (Site("resid_post 0", (1,)) if site is None else site,)
    rates, mixed = (located.frame().set_index("site")[column] for column in ("rate", "mixed_rate"))
    if mechanism == "three paths":
        assert rates["resid_post 0 @ h+r1"] == 1.0 and mixed["resid_post 0 @ h+r1"] < 0.5  # h and r1 of two queries
        assert rates["mlp_out 0 @ r1"] < 0.1 and rates["mlp_out 0 @ r2"] < 0.1  # each is outvoted by the other two
    if mechanism == "bridge beside r2":
        assert rates["resid_post 0 @ r2"] < 0.1  # the state brings its own r2 along


def triples(task, *splits):
    rows = [torch.cat([task.splits[s].tokens, task.splits[s].answer[:, None]], dim=1) for s in splits]
    return torch.cat(rows).unique(dim=0)


EVERY = ("train_inferred", "test_id", "hop1_ood", "hop2_ood", "test_ood")


@pytest.mark.parametrize(
    ("make", "fooled"),
    [
        # Whatever carries h and r1 as one is another question when it is moved whole: only mixed states tell.
        (wired.triple_table, "resid_post 0 @ h+r1"),
        (wired.pair_through_r1, "resid_post 0 @ r1"),
        # With the table's tokens averaged away, the circuit beneath it answers: only the placebo tells.
        (wired.triple_table_over_circuit, "attn_out 0 @ r2 & mlp_out 0 @ r1"),
    ],
)
def test_a_table_hands_on_no_bridge_anywhere(small_task, make, fooled):
    net = make(small_task.facts, triples(small_task, *EVERY), d_vocab=small_task.d_vocab)
    located = locate(small_task, net)
    assert not located.found
    row = located.frame().set_index("site").loc[fooled]
    assert row["rate"] > 0.9
    assert row["mixed_rate"] < 0.3 or row["placebo_rate"] > 0.9


def test_where_nothing_moves_the_answer_no_outputs_are_joined(small_task, monkeypatch):
    net = wired.fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab)
    torch.nn.init.zeros_(net.unembed.W_U)
    effects, asked = _Hop1Trial.effect, []
    monkeypatch.setattr(_Hop1Trial, "effect", lambda trial, site: asked.append(site) or effects(trial, site))
    training = small_task.splits["train_inferred"]
    located = locate_sites(net, training[:80], training[80:250], generator=torch.manual_seed(0))
    assert not located.found
    assert max(len(site.places) for site in asked) == 1


def test_what_is_located_depends_on_the_generator_alone(small_task):
    net = wired.fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab)
    before = torch.get_rng_state()
    training = small_task.splits["train_inferred"]
    frames = [
        locate_sites(net, training[:80], training[80:250], generator=torch.Generator().manual_seed(seed)).frame()
        for seed in (3, 3, 4)
    ]
    assert frames[0].equals(frames[1]) and not frames[0].equals(frames[2])
    assert torch.equal(before, torch.get_rng_state())
