"""Memory of measures over as many queries, and on nets as wide, as the papers have."""

import pytest
from own_process import run_alone

MAX_GIGABYTES_OF_A_PROCESS = 2.0


@pytest.mark.benchmark
def test_eight_effective_layers_and_36_000_queries_fit_a_small_machine():
    """In a process of its own: its largest resident size, imports included; residual stream and head outputs."""
    code = (
        "import torch\n"
        "from circuit_lab.measures import QueryPairs, activation_patching\n"
        "from circuit_lab.nets import SharedTransformerConfig, build_net\n"
        "from circuit_lab.tasks import queries_from_tokens\n"
        "config = SharedTransformerConfig(\n"
        "    layer_map=(0, 1, 2, 3) * 2, d_model=64, n_heads=4, d_mlp=256, d_vocab=70, n_ctx=3)\n"
        "net = build_net(config).eval()\n"
        "generator = torch.Generator().manual_seed(0)\n"
        "draw = lambda: torch.randint(70, (36_000, 3), generator=generator)\n"
        "clean, corrupt = (queries_from_tokens(draw(), draw()[:, 0]) for _ in range(2))\n"
        "for kind, cells in (('resid_pre', (8, 3)), ('z', (8, 3, 4))):\n"
        "    found = activation_patching(net, QueryPairs(clean, corrupt, 'everything'), kind=kind)\n"
        "    assert found.values.shape == (5, *cells, 36_000)\n"
        "    assert len(found.frame(metric='logit_diff')) == found.values[0, ..., 0].numel()\n"
    )
    peak_bytes, _ = run_alone(code)
    assert peak_bytes < MAX_GIGABYTES_OF_A_PROCESS * 1e9


@pytest.mark.benchmark
def test_the_answers_of_a_wide_net_are_read_in_small_batches():
    """Width and positions of the published recursive net; in one batch its activations alone would be 5 GB."""
    code = (
        "import torch\n"
        "from circuit_lab.measures import predicted_answers\n"
        "from circuit_lab.nets import RecursiveTransformerConfig, build_net\n"
        "from circuit_lab.tasks import queries_from_tokens\n"
        "config = RecursiveTransformerConfig(\n"
        "    n_blocks=1, h_cycles=1, l_cycles=1, d_model=1536, token_mixing='position_mlp', d_vocab=2201,\n"
        "    n_ctx=5, n_prefix=16)\n"
        "tokens = torch.randint(2201, (400, 5), generator=torch.Generator().manual_seed(0))\n"
        "result = len(predicted_answers(build_net(config).eval(), queries_from_tokens(tokens, tokens[:, 0])))\n"
    )
    peak_bytes, n = run_alone(code)
    assert n == 400
    assert peak_bytes < MAX_GIGABYTES_OF_A_PROCESS * 1e9
