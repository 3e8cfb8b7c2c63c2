"""Faster arithmetic on a training step: which device can do what, and switching it on for the step alone.

Evaluation, checkpoints and their fingerprints are always computed in the type of the weights, for they are compared
with what other machines compute.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch

from circuit_lab.errors import InputError
from circuit_lab.training.recipe import TrainingRecipe

_Result = TypeVar("_Result")
_TF32_CAPABILITY = (8, 0)
"""Compute capability from which NVIDIA GPUs have TF32 (Ampere)."""


def check_acceleration(recipe: TrainingRecipe, device: torch.device) -> None:
    """Refuse what a device cannot do.

    Args:
        recipe: How to train.
        device: Where.

    Raises:
        InputError: Names the setting, the device, and what to set instead.
    """
    on = f"the device is {device}"
    if recipe.precision == "tf32":
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < _TF32_CAPABILITY:
            raise InputError(
                f'training.precision = "tf32" needs an NVIDIA GPU from the Ampere generation on, but {on}; '
                'set training.precision = "float32"'
            )
    elif recipe.precision == "bf16" and not _has_bf16(device):
        raise InputError(
            f'training.precision = "bf16" needs a CPU, or an NVIDIA GPU that has bfloat16, but {on}; '
            'set training.precision = "float32"'
        )
    if recipe.cuda_graphs and device.type != "cuda":
        raise InputError(f"training.cuda_graphs = true needs an NVIDIA GPU, but {on}; set training.cuda_graphs = false")
    if recipe.compile and (missing := _missing_compiler(device)):
        raise InputError(
            f"training.compile = true needs {missing}, which is not installed, as {on}; install it, or set "
            "training.compile = false"
        )


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu"


def _missing_compiler(device: torch.device) -> str | None:
    """What torch.compile needs on a device and does not find, in words."""
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") is not None else "the package triton"
    if device.type == "cpu":
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        return None if shutil.which(compiler) else f"the C++ compiler {compiler} (or the one named in $CXX)"
    return "an NVIDIA GPU or a CPU"


def autocast(recipe: TrainingRecipe, device: torch.device) -> AbstractContextManager[Any]:
    """The forward pass inside computes matrix products in bfloat16 where the recipe says so."""
    if recipe.precision != "bf16":
        return nullcontext()
    # Older versions of torch would give the cycles with gradients the copies of weights that those without had made.
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


@contextmanager
def matmul_precision(recipe: TrainingRecipe) -> Iterator[None]:
    """Float32 matrix products inside are of the precision that the recipe says; afterwards of what it was before."""
    if recipe.precision != "tf32":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def compiled(
    function: Callable[..., _Result], recipe: TrainingRecipe, *, dynamic: bool = False
) -> Callable[..., _Result]:
    """The function as torch.compile makes it, with CUDA graphs if asked for; the function itself without `compile`.

    `dynamic` where the shapes of its arguments change from step to step.

    What was compiled before in this process is forgotten, for torch counts the nets of one run after the other as
    variants of one function, and gives up after eight of them.
    """
    if not recipe.compile:
        return function
    torch.compiler.reset()
    mode = "reduce-overhead" if recipe.cuda_graphs else None
    return torch.compile(function, fullgraph=True, dynamic=dynamic, mode=mode)
