"""Saving and restoring a run in the middle: weights, the optimiser's moments and the step, nothing else.

The batches are a function of the step, so there is no random state to keep.
"""

import json
from pathlib import Path

import safetensors.torch
import torch

from circuit_lab.nets import HookedNet
from circuit_lab.training.checkpoint import METADATA_KEY, read_tensors
from circuit_lab.training.run_folder import RESUME, write_atomically

MOMENTS = ("exp_avg", "exp_avg_sq")


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
        Steps done so far; 0 when nothing was saved yet. A damaged file, or one of another net, is a ValueError.
    """
    path = run / RESUME
    if not path.exists():
        return 0
    metadata, tensors = read_tensors(path)
    step = json.loads(metadata[METADATA_KEY])["step"]
    prefix = "weight/"
    net.load_unique_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    if step == 0:
        return 0
    for name, weight in net.named_parameters():
        optimizer.state[weight] = {
            "step": torch.tensor(float(step), device=weight.device),
            **{moment: tensors[f"{moment}/{name}"].to(weight.device) for moment in MOMENTS},
        }
    return step
