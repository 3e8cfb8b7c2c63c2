"""Time and memory of the decomposition at p = 113, the size of the papers. The best of several tries, run alone."""

import time

import pytest
from own_process import run_alone
from plain_formulas import decomposition

from circuit_lab.measures import decompose, pair_logits, rows_of
from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.tasks import ModularConfig, ModularTask

P = 113
MAX_SECONDS_FROM_LOGITS = 1.0
MAX_SHARE_OF_THE_LOGITS_BYTES = 0.2
MAX_GIGABYTES_OF_A_PROCESS = 2.0

TASK = ModularConfig(p=P, train_share=0.3)
NET = SharedTransformerConfig(
    layer_map=(0,),
    d_model=128,
    n_heads=4,
    d_mlp=512,
    d_vocab=P + 1,
    d_vocab_out=P,
    n_ctx=3,
    act_fn="relu",
    normalization_type=None,
    attn_bias=False,
)
"""The net of the papers, with its initial weights."""


@pytest.fixture(scope="module")
def task():
    return ModularTask.from_config(TASK)


@pytest.fixture(scope="module")
def logits(task):
    return pair_logits(build_net(NET), task.pairs, task.group)


def decompose_held_out(task, logits):
    members = {name: rows_of(logits, split) for name, split in task.splits.items()}
    return decompose(logits, members, fit="test_unmirrored")


@pytest.mark.benchmark
def test_decomposing_given_logits_takes_under_a_second_on_one_core(task, logits):
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        best = min(_seconds(decompose_held_out, task, logits) for _ in range(5))
    finally:
        torch.set_num_threads(threads)
    assert best < MAX_SECONDS_FROM_LOGITS


def _seconds(measure, *arguments) -> float:
    start = time.perf_counter()
    measure(*arguments)
    return time.perf_counter() - start


@pytest.mark.benchmark
def test_decomposing_given_logits_needs_little_memory_beside_them(task, logits):
    """Counted in torch's allocations; aligning all logits at once, which is to be avoided, shows what would be seen."""
    of_logits = logits.centred.nbytes
    assert of_logits == 8 * P**3
    assert _peak_bytes(lambda: logits.aligned()) >= of_logits
    ours = _peak_bytes(lambda: decompose_held_out(task, logits))
    assert ours < MAX_SHARE_OF_THE_LOGITS_BYTES * of_logits
    cube = logits.centred.unflatten(0, (P, P))
    masks = {name: rows_of(logits, split).unflatten(0, (P, P)) for name, split in task.splits.items()}
    assert ours < _peak_bytes(lambda: decomposition(cube, masks["test_unmirrored"], masks)) / 10


def _peak_bytes(measure) -> int:
    """Most bytes that torch holds on the CPU during a call, beyond those it held before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        measure()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.benchmark
def test_a_whole_decomposition_fits_a_small_machine():
    """In a process of its own: its largest resident size, imports of torch and the net's forward passes included."""
    code = (
        "import sys\n"
        "from circuit_lab.measures import trig_decomposition\n"
        "from circuit_lab.nets import SharedTransformerConfig, build_net\n"
        "from circuit_lab.tasks import ModularConfig, build_task\n"
        "task = build_task(ModularConfig.model_validate_json(sys.argv[1]))\n"
        "net = build_net(SharedTransformerConfig.model_validate_json(sys.argv[2]))\n"
        "assert trig_decomposition(net, task).n_fitted > 0\n"
    )
    peak_bytes, _ = run_alone(code, TASK.model_dump_json(), NET.model_dump_json())
    assert peak_bytes < MAX_GIGABYTES_OF_A_PROCESS * 1e9


@pytest.mark.benchmark
def test_every_measure_in_one_process_fits_a_small_machine():
    """The diagnosis makes all of them but the gradient's alignment, which is added."""
    code = (
        "from circuit_lab import diagnose, reference_model\n"
        "from circuit_lab.measures import gradient_weight_alignment, weight_norms\n"
        "assert diagnose('modular-grokked-p113').verdict == 'true_circuit'\n"
        "checkpoint = reference_model('modular-grokked-p113')\n"
        "assert gradient_weight_alignment(checkpoint.net, checkpoint.task.training).cosine < 0\n"
        "assert weight_norms(checkpoint.net).total > 0\n"
    )
    peak_bytes, _ = run_alone(code)
    assert peak_bytes < MAX_GIGABYTES_OF_A_PROCESS * 1e9
