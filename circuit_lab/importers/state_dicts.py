"""Where the weights are in what a file holds: the file itself, or one entry of a container, or one of a series.

Training codes save a state dict alone, or a dict that also holds losses, optimiser state and settings:

* the weights under `model`, `state_dict` or `model_state_dict`;
* a series of state dicts under `checkpoints` or `state_dicts`, with the epoch of each under `checkpoint_epochs` or
  `epochs` (TransformerLens's Grokking demo; the run data of Nanda et al., arXiv 2301.05217);
* the number of steps or epochs under `step` or `epoch`.

The prefixes that torch puts before every name of a compiled (`_orig_mod.`) or parallel (`module.`) net are taken off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Imported, Options, Source
from circuit_lab.importers.ledger import Ledger, first_few
from circuit_lab.nets import HookedNet

WEIGHTS = ("model", "state_dict", "model_state_dict")
SERIES = ("checkpoints", "state_dicts")
SERIES_STEPS = ("checkpoint_epochs", "epochs")
STEPS = ("step", "epoch")
SETTINGS = "config"
PREFIXES = ("_orig_mod.", "module.")
DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.bool,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
)
"""Types that a tensor of a state dict may have; masks are of the last six."""
MAX_NAME = 300
_MAX_NAMED = 8
_MAX_SHOWN = 60


@dataclass(frozen=True, eq=False)
class StateDict:
    """The weights of one step, as a file has them.

    Attributes:
        tensors: By name, prefixes taken off.
        place: The file, and the entry of it, for messages.
        settings: What stands beside the weights under `config`; None if nothing does.
        step: The step or epoch the file gives; None if it gives none.
        inferred: What was chosen, a sentence each.
        ignored: What else the file holds, a sentence each.
    """

    tensors: dict[str, Tensor]
    place: str
    settings: Any = None
    step: int | None = None
    inferred: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def imported(self, net: HookedNet, ledger: Ledger) -> Imported:
        """The net made of these weights, with what was noted when they were chosen and when they were taken.

        Args:
            net: The net.
            ledger: That of these tensors.

        Returns:
            What an importer gives back.
        """
        return Imported(
            net=net,
            inferred=(*self.inferred, *ledger.inferred),
            ignored=(*self.ignored, *ledger.ignored),
            step=self.step,
        )


@dataclass(frozen=True, eq=False)
class _Found:
    """A state dict in a container, not looked into yet."""

    entry: str
    content: Mapping[Any, Any]
    step: int | None
    inferred: tuple[str, ...] = ()


def peek(source: Source) -> dict[str, Tensor]:
    """The tensors that `read_state_dict` would choose by default; never raises.

    Args:
        source: What was read.

    Returns:
        By name, prefixes taken off; empty if there is no state dict.
    """
    content = source.content
    if not isinstance(content, Mapping):
        return {}
    chosen = content
    for name in WEIGHTS:
        if _is_state_dict(content.get(name)):
            chosen = content[name]
            break
    else:
        for name in SERIES:
            if _is_series(content.get(name)):
                chosen = content[name][-1]
    named = {name: tensor for name, tensor in chosen.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
    return _without_prefixes(named)


def has_axes(tensors: Mapping[str, Tensor], axes: Mapping[str, int]) -> bool:
    """Whether there are tensors of these names with so many axes.

    Args:
        tensors: By name.
        axes: Number of axes by name.

    Returns:
        Whether all are there.
    """
    return all(name in tensors and tensors[name].ndim == n_axes for name, n_axes in axes.items())


def read_state_dict(source: Source, options: Options) -> StateDict:
    """Choose the weights in a file.

    Args:
        source: What was read.
        options: `step` chooses from a series; `n_passes` and `weights` mean nothing here and must be left alone.

    Returns:
        The weights, each a tensor.

    Raises:
        InputError: If there are none, several, or not at the step asked for, or something among them is no tensor.
    """
    _refuse_other_options(source, options)
    content = source.content
    if not isinstance(content, Mapping) or len(content) == 0:
        raise InputError(f"{source.path}: expected a dict of tensors by name, got {_in_words(content)}")
    if _is_state_dict(content) or not _has_weights(content):
        if options.step is not None:
            raise InputError(f"{source.path} holds one net without a step, but step = {options.step} is asked for")
        return StateDict(_tensors(content, str(source.path)), str(source.path))
    found = _choose(source, content, options.step)
    place = f"{source.path}, entry {found.entry}"
    rest = sorted(_label(name) for name in content if name not in (found.entry.split("[")[0], SETTINGS))
    unused = (f"entries {first_few(rest, _MAX_NAMED)}: beside {found.entry}, no weights of it",) if rest else ()
    return StateDict(
        tensors=_tensors(found.content, place),
        place=place,
        settings=content.get(SETTINGS),
        step=found.step,
        inferred=found.inferred,
        ignored=unused,
    )


def _refuse_other_options(source: Source, options: Options) -> None:
    if options.n_passes != 1:
        raise InputError(
            f"{source.path}: n_passes = {options.n_passes} is for GPT-2 folders; this format repeats the "
            "weights of a layer that is used several times"
        )
    if options.weights == "ema":
        raise InputError(f'{source.path} holds no moving average of the weights; leave weights = "ema" out')


def _has_weights(content: Mapping[Any, Any]) -> bool:
    return any(_is_state_dict(content.get(name)) for name in WEIGHTS) or any(
        _is_series(content.get(name)) for name in SERIES
    )


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(tensor, Tensor) for tensor in value.values())


def _is_series(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and _is_state_dict(value[-1])


def _choose(source: Source, content: Mapping[Any, Any], step: int | None) -> _Found:
    """The weights at a step; the final ones, or the last of the series, without one."""
    single = [name for name in WEIGHTS if _is_state_dict(content.get(name))]
    series = [name for name in SERIES if _is_series(content.get(name))]
    if len(single) > 1 or len(series) > 1:
        names = " and ".join(single if len(single) > 1 else series)
        raise InputError(f"{source.path} holds weights under {names}; save the one that is meant alone")
    final_step = next((content[name] for name in STEPS if _is_step(content.get(name))), None)
    if single and (step is None or step == final_step):
        note = () if final_step is None else (_step_note(final_step),)
        return _Found(single[0], content[single[0]], final_step, note)
    if not series:
        has = "without a step" if final_step is None else f"of step {final_step}"
        raise InputError(f"{source.path} holds one net {has}, but step = {step} is asked for")
    return _from_series(source, content, series[0], step)


def _from_series(source: Source, content: Mapping[Any, Any], name: str, step: int | None) -> _Found:
    """One of a series, by the list of epochs; by its place in the series where there is no such list."""
    states: Sequence[Any] = content[name]
    epochs = next((content[key] for key in SERIES_STEPS if isinstance(content.get(key), list | tuple)), None)
    if epochs is not None and (len(epochs) != len(states) or not all(map(_is_step, epochs))):
        raise InputError(
            f"{source.path}: {name} holds {len(states)} nets, but its list of epochs has {len(epochs)} "
            f"entries; it must be {len(states)} whole numbers"
        )
    if step is None:
        index, note = len(states) - 1, f"entry {name}[{len(states) - 1}] (the last: no step is asked for)"
    elif epochs is not None:
        if step not in epochs:
            near = min(epochs, key=lambda epoch: abs(epoch - step))
            raise InputError(
                f"{source.path} has no net of step {step}; it has {len(epochs)}, from {min(epochs)} to {max(epochs)}, "
                f"the nearest at {near}"
            )
        index, note = list(epochs).index(step), f"entry {name}[{list(epochs).index(step)}] (step {step} is asked for)"
    elif 0 <= step < len(states):
        index, note = step, f"entry {name}[{step}] (the file has no list of epochs, so step counts its nets, from 0)"
    else:
        raise InputError(
            f"{source.path} has no list of epochs, so step counts the nets in {name}: 0..{len(states) - 1}, got {step}"
        )
    if not _is_state_dict(states[index]):
        raise InputError(f"{source.path}: {name}[{index}] is no dict of tensors but {_in_words(states[index])}")
    known = None if epochs is None else epochs[index]
    notes = (note,) if known is None else (note, _step_note(known))
    return _Found(f"{name}[{index}]", states[index], known, notes)


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _step_note(step: int) -> str:
    return f"step = {step} (as the file counts; where it counts epochs, an epoch is taken as one optimiser step)"


def _tensors(content: Mapping[Any, Any], place: str) -> dict[str, Tensor]:
    """Names to tensors, and nothing else."""
    for name, value in content.items():
        if not isinstance(name, str):
            raise InputError(f"{place}: a name must be text, got {_in_words(name)}")
        if len(name) > MAX_NAME or not name.isprintable():
            raise InputError(f"{place}: a name must be at most {MAX_NAME} printable characters, got {_in_words(name)}")
        if not isinstance(value, Tensor):
            near = get_close_matches(name, WEIGHTS + SERIES, n=1)
            hint = f"; the nearest name of an entry with weights is {near[0]}" if near else ""
            raise InputError(f"{place}: {name} must be a tensor, got {_in_words(value)}{hint}")
        if value.dtype not in DTYPES or value.layout != torch.strided:
            raise InputError(f"{place}: {name} is a {value.layout} tensor of {value.dtype}, which no net here can hold")
    return _without_prefixes(dict(content))


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, in type and shape too.

    Args:
        one: A tensor.
        other: Another.

    Returns:
        Whether they are.
    """
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefixes that stand before every name."""
    stripped = True
    while stripped and tensors:
        stripped = False
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
                stripped = True
    return tensors


def _label(name: Any) -> str:
    """A name from outside, for messages of one line."""
    if not isinstance(name, str):
        return f"a name of type {type(name).__name__}"
    short = name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}..."
    return short if short.isprintable() else repr(short)


def _in_words(value: Any) -> str:
    """Type of a value, and its size where it has one, but never its content, which may be long."""
    size = f" of {len(value)}" if isinstance(value, Mapping | list | tuple | str) else ""
    return f"{type(value).__name__}{size}"
