"""The lens on a recursive net: both streams, behind a prefix, with the answer in a slot of its own."""

import pytest
import torch
from recursive_nets import make_recursive_net

from circuit_lab.measures import bridge_recovery
from circuit_lab.tasks import TwoHopConfig, build_task, in_answer_slots


@pytest.fixture(scope="module")
def slots():
    sizes = {"n_entities": 10, "n_relations": 6, "out_degree": 6, "ood_share": 0.34, "test_id_share": 0.15}
    task = build_task(TwoHopConfig(**sizes))
    return in_answer_slots(task, d_vocab=task.d_vocab)


@torch.no_grad()
def test_readings_against_a_loop(slots):
    """Query by query: ranks at the tokens' rows, "first" from the stages at which bridge and answer come on top."""
    queries = slots.splits["test_ood"]
    net = make_recursive_net(seed=4, d_vocab=slots.d_vocab, d_vocab_out=slots.d_vocab, l_cycles=2, n_prefix=3)
    for parameter in (*net.parameters(), net.embed.W_E, net.embed.W_E):
        parameter.mul_(3.0)  # so that tokens differ in what is on top
    lens = bridge_recovery(net, queries, batch_size=32)
    assert lens.stages == ("embed", "H0.L0", "H0.L1", "H0.commit", "H1.L0", "H1.L1", "H1.commit")
    assert lens.position_names == ("h", "r1", "r2", "answer", "end")
    _, cache = net.run_with_cache(queries.tokens)
    top1, found, first = torch.zeros(len(lens.stages), 5), 0, 0
    for i in range(len(queries)):
        bridge, answer, position = (
            int(x[i]) for x in (queries.intermediates["bridge"], queries.answer, queries.answer_position)
        )
        on_top = torch.stack([net.unembed(cache[site.hook_name][i, 3:]).argmax(-1) for site in net.lens_sites])
        top1 += on_top == bridge
        found += bool((on_top == bridge).any())
        bridge_stages = [k for k in range(7) if (on_top[k, :position] == bridge).any()]
        answer_stages = [k for k in range(7) if on_top[k, position] == answer]
        first += bool(bridge_stages and answer_stages and bridge_stages[0] < answer_stages[0])
    torch.testing.assert_close(lens.bridge_top1, top1 / len(queries))
    assert lens.bridge_found == pytest.approx(found / len(queries)) and 0 < found < len(queries)
    assert lens.bridge_first == pytest.approx(first / len(queries)) and 0 < first < len(queries)
    assert lens.answer_top1[:, 3].any()
