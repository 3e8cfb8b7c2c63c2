"""The paired benchmarks, in the order of docs/benchmarks.md.

`make bench` writes them there; the benchmark tests hold each to its target, or to a lower bound where it
is not reached, or may be missed by a busy machine. Those that need a GPU are measured where there is one.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from analysis_ratios import (
    attribution,
    bootstrap,
    diagnosis,
    modular_measures,
    pairs_with_another_h,
    patch_grid,
    timeline,
    unrelated_pairs,
)
from own_process import run_alone
from paired_timing import Ratio
from peer_process import INSTALLED
from training_ratios import (
    COMPILED,
    GRAPHED,
    SMALL_STACK,
    full_batch_step,
    grokking_demo_steps,
    native_steps,
    share_of_products,
    stacked_steps,
)

_MEASURE = """
import dataclasses, sys
sys.path[:0] = sys.argv[2:]
from ratios import ROWS
result = dataclasses.asdict(ROWS[sys.argv[1]].measure())
"""
NATIVE = "the same net of TransformerLens `boot_native`, in plain torch"
ONE_BY_ONE = "one net after the other"


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        work: What is done.
        peer: Who does it otherwise.
        target: The ratio that is promised.
        measure: Asserts that both results are equal, then times them.
        held: The ratio that the tests ask for; the target unless said.
        needs: "a GPU"; or "the peers", which `make bench-peers` installs.
    """

    work: str
    peer: str
    target: float
    measure: Callable[[], Ratio]
    held: float | None = None
    needs: frozenset[Literal["the peers", "a GPU"]] = frozenset()

    @property
    def least(self) -> float:
        """The ratio below which the tests fail."""
        return self.target if self.held is None else self.held

    @property
    def missing(self) -> list[str]:
        """What this machine lacks of it."""
        there = {"the peers": INSTALLED.exists(), "a GPU": torch.cuda.is_available()}
        return sorted(need for need in self.needs if not there[need])


ROWS = {
    "diagnosis": Row(
        "diagnosis of a checkpoint, all splits", "one transplant at a time, as in published codes", 50, diagnosis
    ),
    "patch grid": Row(
        "residual-stream patch grid, small two-hop net, 2,000 pairs with another h",
        "TransformerLens `get_act_patch_resid_pre`",
        3,
        partial(patch_grid, pairs_with_another_h),
    ),
    "patch grid of unrelated pairs": Row(
        "the same, 2,000 pairs that differ at every position",
        "the same",
        3,
        partial(patch_grid, unrelated_pairs),
        held=2.7,
    ),
    "attribution": Row(
        "attribution patching of nodes, 256 pairs", "TransformerLens `attribution_patch`, pair by pair", 20, attribution
    ),
    "grokking demo": Row(
        "training step, one-layer net mod 113, full batch of 30 %",
        "HookedTransformer 3.9, as in TransformerLens's grokking demo",
        4,
        grokking_demo_steps,
        held=3.5,
        needs=frozenset({"the peers"}),
    ),
    "products": Row(
        "the same",
        "its matrix products alone",
        0.5,
        share_of_products,
    ),
    **{
        f"step on {size}": Row(
            f"training step, small two-hop net of four blocks, batch {size}",
            NATIVE,
            2.5,
            partial(native_steps, size),
            held,
        )
        for size, held in ((128, 1.4), (512, 2.0))
    },
    **{
        f"compiled step on {size}": Row(
            f"the same, batch {size}, compiled", NATIVE, 2.5, partial(native_steps, size, settings=COMPILED), held
        )
        for size, held in ((128, 1.9), (512, 2.5))
    },
    "full batch": Row(
        "training step, one-layer net on 1,393 pairs mod 59, full batch",
        "the same with keys and values of every pair",
        1.3,
        full_batch_step,
    ),
    "stacked modular": Row(
        "training step of 8 seeds, one-layer nets on 77 pairs mod 59",
        ONE_BY_ONE,
        0.7,
        partial(stacked_steps, "modular-small", SMALL_STACK),
        held=0.6,
    ),
    "stacked two-hop": Row(
        "training step of 8 seeds, small two-hop nets, batch 128",
        ONE_BY_ONE,
        0.7,
        partial(stacked_steps, "universal-small"),
        held=0.6,
    ),
    "timeline": Row(
        "accuracy and loss of every split at 100 checkpoints of a small two-hop run",
        "loading each afresh, and asking every split whole",
        5,
        timeline,
        held=4,
    ),
    "modular measures": Row(
        "trigonometric decomposition and progress measures, p 113, from the logits",
        "the published formulas, written plainly on the cube of logits",
        10,
        modular_measures,
        held=8,
    ),
    "bootstrap": Row(
        "bootstrap intervals of 12 cells, 2,000 queries", "TransformerLens `bootstrap_ci`", 1.5, bootstrap
    ),
    "grokking demo on a GPU": Row(
        "on a GPU: training step, one-layer net mod 113, full batch of 30 %, compiled, CUDA graphs",
        "HookedTransformer 3.9, as in TransformerLens's grokking demo",
        8,
        partial(grokking_demo_steps, "cuda", GRAPHED),
        needs=frozenset({"the peers", "a GPU"}),
    ),
    **{
        f"step on {size} on a GPU": Row(
            f"on a GPU: training step, small two-hop net of four blocks, batch {size}, compiled, CUDA graphs",
            NATIVE,
            8,
            partial(native_steps, size, "cuda", GRAPHED),
            needs=frozenset({"a GPU"}),
        )
        for size in (128, 512)
    },
    "32 seeds on a GPU": Row(
        "on a GPU: training step of 32 seeds, one-layer nets on 77 pairs mod 59",
        ONE_BY_ONE,
        8,
        partial(stacked_steps, "modular-small", SMALL_STACK, "cuda", 32),
        needs=frozenset({"a GPU"}),
    ),
    "patch grid on a GPU": Row(
        "on a GPU: residual-stream patch grid, small two-hop net, 2,000 pairs with another h",
        "TransformerLens `get_act_patch_resid_pre`",
        10,
        partial(patch_grid, pairs_with_another_h, "cuda"),
        needs=frozenset({"a GPU"}),
    ),
}


def measured_alone(name: str) -> Ratio:
    """Measure a row in a process of its own.

    What ran before would change it (the memory that it left), and so would the checks of shapes in a process of tests,
    which the peers' functions do not have.
    """
    _, ratio = run_alone(_MEASURE, name, *sys.path)
    return Ratio(**ratio)
