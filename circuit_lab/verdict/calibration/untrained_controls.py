"""Untrained controls: nets with random initial weights, of several architectures, sizes, seeds and tasks."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from circuit_lab.nets import HookedSharedTransformer, SharedTransformerConfig, build_net
from circuit_lab.tasks import ModularConfig, Task, TwoHopConfig, build_task
from circuit_lab.verdict.calibration.controls import Control
from circuit_lab.verdict.calibration.halves import is_held_out
from circuit_lab.verdict.calibration.modular_controls import TASKS as MODULAR_TASKS
from circuit_lab.verdict.calibration.two_hop_families import TASKS as TWO_HOP_TASKS
from circuit_lab.verdict.verdicts import Verdict

_WIDE = {"d_model": 32, "n_heads": 4, "d_mlp": 64}
_NARROW = {"d_model": 24, "n_heads": 3, "d_mlp": 40}
_TWO_HOP_NETS: Mapping[str, Mapping[str, Any]] = {
    "two_hop/untrained_shared": {"layer_map": (0, 0, 0, 0), "init_std": 0.02, **_WIDE},
    "two_hop/untrained_bidirectional": {"layer_map": (0, 0), "attention_dir": "bidirectional", **_NARROW},
    "two_hop/untrained_standard": {"layer_map": (0, 1, 2), **_WIDE},
    "two_hop/untrained_cycle": {"layer_map": (0, 1, 0, 1), "normalization_type": "RMS", **_NARROW},
    "two_hop/untrained_no_norm": {"layer_map": (0, 0), "normalization_type": None, "act_fn": "relu", **_WIDE},
}
_MODULAR_NETS: Mapping[str, Mapping[str, Any]] = {
    "modular/untrained_relu": {"normalization_type": None, "act_fn": "relu", "attn_bias": False, **_WIDE},
    "modular/untrained_norm": {"normalization_type": "LN", **_NARROW},
}
_N_SEEDS = {"two_hop": 20, "modular": 15}


def untrained_controls() -> Iterator[Control]:
    """Every net with random initial weights, in a fixed order."""
    for family, shape in _TWO_HOP_NETS.items():
        yield from _of_family(family, shape, TWO_HOP_TASKS[:4], _N_SEEDS["two_hop"])
    for family, shape in _MODULAR_NETS.items():
        yield from _of_family(family, {"layer_map": (0,), **shape}, MODULAR_TASKS, _N_SEEDS["modular"])


def _of_family(
    family: str, shape: Mapping[str, Any], tasks: Sequence[TwoHopConfig | ModularConfig], n_seeds: int
) -> Iterator[Control]:
    for i, config in enumerate(tasks):
        for seed in range(n_seeds):
            yield Control(
                name=f"{family}/task={i}/seed={seed}",
                family=family,
                mechanism="Random initial weights: nothing was learnt.",
                truth=Verdict.UNTRAINED,
                kind="untrained",
                held_out=is_held_out(family),
                build=partial(_build, shape, config, 1000 * i + seed),
            )


def _build(
    shape: Mapping[str, Any], config: TwoHopConfig | ModularConfig, seed: int
) -> tuple[HookedSharedTransformer, Task]:
    task = build_task(config)
    sizes = {"d_vocab": task.d_vocab, "d_vocab_out": task.d_vocab_out, "n_ctx": task.n_ctx, "init_seed": seed}
    return build_net(SharedTransformerConfig.model_validate({**shape, **sizes})), task
