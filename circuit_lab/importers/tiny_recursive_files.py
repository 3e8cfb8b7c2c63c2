"""Which weights a file of a tiny recursive model holds: the trained ones, their moving average, or both.

Names begin with what wrapped the net (`_orig_mod.`, `model.`, `inner.`). The two-hop code of [He] writes one state
dict, which is the moving average where that is switched on (`ema` in the run's settings). The code that it started
from writes a dict with `model`, `optimizers`, `step` and `ema_helper`, the moving average of the trained weights, in
which the buffers (the initial streams, the prefix) are not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Options, Source

WRAPPERS = ("_orig_mod.", "module.", "model.", "inner.")
WEIGHTS, AVERAGES = "model", ("ema_helper", "ema")
CONTAINER = (WEIGHTS, *AVERAGES, "optimizers", "optimizer", "step")
"""What a file may hold beside the weights."""
STEP_FILE = "step_"
"""A checkpoint's file name is this and the number of steps."""


@dataclass(frozen=True, eq=False)
class StateDict:
    """The weights that are taken, and what is known of them.

    Attributes:
        tensors: By name, wrappers taken off.
        place: The file and the entry of it.
        step: Optimiser steps; None if nothing says them.
        inferred: What was chosen, as (what, why).
        ignored: What was left out, a sentence each.
    """

    tensors: dict[str, Tensor]
    place: str
    step: int | None
    inferred: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()


def unwrapped(name: str) -> str:
    """A name without what wrapped the net, in whatever order.

    >>> unwrapped("_orig_mod.model.inner.L_level.layers.0.mlp.down_proj.weight")
    'L_level.layers.0.mlp.down_proj.weight'
    """
    while any(name.startswith(wrapper) for wrapper in WRAPPERS):
        name = name.partition(".")[2]
    return name


def _tensors(content: Any, place: str) -> dict[str, Tensor]:
    """Tensors by unwrapped name, and nothing else."""
    if not isinstance(content, Mapping):
        raise InputError(f"{place}: expected a dict of tensors by name, got {type(content).__name__}")
    tensors: dict[str, Tensor] = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise InputError(
                f"{place}: every entry must be a tensor with a name, got {type(tensor).__name__} "
                f"{str(name)[:100]}; save model.state_dict() alone"
            )
        short = unwrapped(name)
        if short in tensors:
            raise InputError(f"{place}: {short} is there twice, once as {name}; save one net's weights alone")
        tensors[short] = tensor
    return tensors


def choose_weights(source: Source, options: Options, *, is_average: bool) -> StateDict:
    """The trained weights or their moving average, as the file has them and the caller wants them.

    Args:
        source: What was read.
        options: The caller's: `weights`, and `step` and `n_passes`, of which there is one here.
        is_average: Whether the run's settings say that a file with one copy holds the average.

    Returns:
        The weights.

    Raises:
        InputError: If the file holds something else, or not what is asked for.
    """
    if options.n_passes != 1:
        raise InputError(
            f"{source.path}: n_passes = {options.n_passes} is for GPT-2 folders; cycles of this net are settings, "
            "H_cycles and L_cycles"
        )
    content = source.content
    is_container = isinstance(content, Mapping) and isinstance(content.get(WEIGHTS), Mapping)
    state = _from_container(source, options) if is_container else _from_state_dict(source, options, is_average)
    if options.step is not None and options.step != state.step:
        has = "without a step" if state.step is None else f"of step {state.step}"
        raise InputError(f"{source.path} holds one net {has}, but step = {options.step} is asked for")
    return state


def _from_state_dict(source: Source, options: Options, is_average: bool) -> StateDict:
    """One copy of the weights; the settings may say that it is the average."""
    if options.weights == "ema" and not is_average:
        raise InputError(
            f'{source.path} holds one copy of the weights, and no config says "ema": true, so weights = "ema" '
            "cannot be had; leave weights out"
        )
    if options.weights == "raw" and is_average:
        raise InputError(
            f'{source.path} holds the moving average of the weights alone, by its config; weights = "raw" cannot be had'
        )
    note = (("the moving average of the weights", "the config says ema = true, and that code saves it alone"),)
    step, step_note = _step_of_file(source)
    inferred = (*(note if is_average else ()), *step_note)
    return StateDict(_tensors(source.content, str(source.path)), str(source.path), step, inferred)


def _step_of_file(source: Source) -> tuple[int | None, tuple[tuple[str, str], ...]]:
    """The step that the file's name gives."""
    digits = source.path.stem.removeprefix(STEP_FILE)
    if not source.path.stem.startswith(STEP_FILE) or not digits.isascii() or not digits.isdigit() or len(digits) > 12:
        return None, ()
    return int(digits), ((f"step = {int(digits)}", "the file's name"),)


def _from_container(source: Source, options: Options) -> StateDict:
    """The trained weights, or their average completed by the buffers, which are not averaged."""
    content: Mapping[Any, Any] = source.content
    strangers = sorted(str(name)[:100] for name in content if name not in CONTAINER)
    if strangers:
        raise InputError(
            f"{source.path}: {', '.join(strangers[:5])} is no entry of this format; it has {', '.join(CONTAINER)}"
        )
    step = content.get("step")
    if step is not None and (type(step) is not int or step < 0):
        raise InputError(f"{source.path}: step must be a whole number of at least 0, got {type(step).__name__}")
    averages = [name for name in AVERAGES if content.get(name) is not None]
    if len(averages) > 1:
        raise InputError(f"{source.path} holds two moving averages, {' and '.join(averages)}; keep one")
    if options.weights == "ema" and not averages:
        raise InputError(f'{source.path} holds no moving average of the weights; leave weights = "ema" out')
    trained = _tensors(content[WEIGHTS], f"{source.path}, entry {WEIGHTS}")
    unused = sorted(name for name in content if name.startswith("optimizer"))
    ignored = (f"entries {', '.join(unused)}: state of the optimiser",) if unused else ()
    if not averages or options.weights == "raw":
        ignored += tuple(
            f"entry {name}: the moving average, for the trained weights are asked for" for name in averages
        )
        return StateDict(trained, f"{source.path}, entry {WEIGHTS}", step, (), ignored)
    place = f"{source.path}, entry {averages[0]}"
    averaged = _tensors(content[averages[0]], place)
    rest = sorted(trained.keys() - averaged.keys())
    inferred = [(f"weights from {averages[0]}", "the moving average, which that code evaluates")]
    if rest:
        inferred.append((f"{', '.join(rest[:5])} from {WEIGHTS}", "the average has only what is trained by gradient"))
    return StateDict({**trained, **averaged}, place, step, tuple(inferred), ignored)
