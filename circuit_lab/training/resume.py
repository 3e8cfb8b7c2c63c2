"""Saving and restoring a run in the middle: weights, the optimiser's moments and the step, nothing else.

The batches are a function of the step, so there is no random state to keep.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from circuit_lab.nets import HookedNet
from circuit_lab.training.checkpoint import METADATA_KEY, read_tensors
from circuit_lab.training.run_folder import RESUME, write_atomically

MOMENTS = ("exp_avg", "exp_avg_sq")
_START_AGAIN = "delete it to train this run from the start"


def save_resume(run: Path, *, net: HookedNet, optimizer: torch.optim.AdamW, step: int) -> None:
    """Write the state after `step` steps; a kill leaves the state before it."""
    tensors = {}
    for name, weight in net.named_parameters():
        tensors[f"weight/{name}"] = weight.detach().cpu().contiguous()
        for moment in MOMENTS:
            if weight in optimizer.state:
                tensors[f"{moment}/{name}"] = optimizer.state[weight][moment].cpu().contiguous()
    write_atomically(run / RESUME, safetensors.torch.save(tensors, {METADATA_KEY: json.dumps({"step": step})}))


def load_resume(run: Path, *, net: HookedNet, optimizer: torch.optim.AdamW) -> int:
    """Put the saved state into a fresh net and optimiser.

    Args:
        run: The run folder.
        net: The net, of the same config.
        optimizer: Its optimiser, before any step.

    Returns:
        Steps done so far; 0 when nothing was saved yet.

    Raises:
        ValueError: If the file is damaged or of another net; says what is wrong with it.
    """
    path = run / RESUME
    if not path.exists():
        return 0
    metadata, tensors = read_tensors(path)
    if METADATA_KEY not in metadata:
        raise ValueError(f"{path} is no resume state: its metadata has no key {METADATA_KEY!r}; {_START_AGAIN}")
    step = json.loads(metadata[METADATA_KEY])["step"]
    _check_state(path, tensors, net=net)
    net.load_unique_state_dict({name: tensors[f"weight/{name}"] for name, _ in net.named_parameters()})
    for name, weight in net.named_parameters():
        optimizer.state[weight] = {
            "step": torch.tensor(float(step), device=weight.device),
            **{moment: tensors[f"{moment}/{name}"].to(weight.device) for moment in MOMENTS},
        }
    return step


def _check_state(path: Path, tensors: Mapping[str, Tensor], *, net: HookedNet) -> None:
    """Every parameter has its weight and moments, of its shape and type, and nothing else is there."""
    expected = {f"{part}/{name}": p for name, p in net.named_parameters() for part in ("weight", *MOMENTS)}
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(f"{path} is damaged or of another net: missing {missing}, unknown {unknown}; {_START_AGAIN}")
    for name, parameter in expected.items():
        saved = tensors[name]
        if saved.shape != parameter.shape or saved.dtype != parameter.dtype:
            raise ValueError(
                f"{path} is damaged or of another net: {name} must be {list(parameter.shape)} {parameter.dtype}, "
                f"got {list(saved.shape)} {saved.dtype}; {_START_AGAIN}"
            )
