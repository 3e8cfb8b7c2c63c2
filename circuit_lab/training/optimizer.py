"""AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with decay on weight matrices and embeddings only."""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from circuit_lab.errors import InputError
from circuit_lab.nets import HookedNet
from circuit_lab.training.recipe import OptimizerRecipe, PartName

PARTS: Mapping[str, PartName] = MappingProxyType(
    {
        "embed": "embedding",
        "pos_embed": "embedding",
        "attn": "attention",
        "pos_mlp": "position_mlp",
        "mlp": "mlp",
        "ln1": "norm",
        "ln2": "norm",
        "ln_final": "norm",
        "unembed": "unembedding",
    }
)
"""The part of the net that each module with weights belongs to."""


def part_of(name: str) -> PartName:
    """The part that a weight belongs to, by its name.

    >>> part_of("blocks.3.attn.W_Q"), part_of("pos_embed.W_pos"), part_of("ln_final.w")
    ('attention', 'embedding', 'norm')
    """
    return PARTS[name.split(".")[-2]]


def freeze_all_but(net: HookedNet, only: tuple[PartName, ...] | None) -> None:
    """Let training change these parts of the net and no others.

    Args:
        net: The net; the `requires_grad` of its weights is set.
        only: Names of parts; None for the whole net.

    Raises:
        InputError: If the net has no such part.
    """
    if only is None:
        return
    named = dict(net.named_parameters())
    parts = list(dict.fromkeys(part_of(name) for name in named))
    for part in only:
        if part not in parts:
            raise InputError(f"optimizer.only: this net has no part {part!r}; its parts are: {', '.join(parts)}")
    for name, weight in named.items():
        weight.requires_grad_(part_of(name) in only)


def is_decayed(name: str) -> bool:
    """Whether weight decay applies: to `W_...`, not to biases (`b_...`, `b`) nor norm scales (`w`).

    The name decides, not the number of dimensions: attention biases are matrices `[head, d_head]`.

    >>> is_decayed("blocks.0.attn.W_Q"), is_decayed("blocks.0.attn.b_Q"), is_decayed("ln_final.w")
    (True, False, False)
    """
    return name.rpartition(".")[2].startswith("W_")


def make_optimizer(net: HookedNet, recipe: OptimizerRecipe) -> torch.optim.AdamW:
    """AdamW in two groups, decayed and not; each tied weight once, and none that is frozen."""
    named = [(name, weight) for name, weight in net.named_parameters() if weight.requires_grad]
    groups = [
        {"params": [p for n, p in named if is_decayed(n)], "weight_decay": recipe.weight_decay},
        {"params": [p for n, p in named if not is_decayed(n)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.eps,
        fused=True,
    )


def learning_rate(recipe: OptimizerRecipe, step: int) -> float:
    """The rate of one step, counted from 0.

    >>> [learning_rate(OptimizerRecipe(learning_rate=1.0, warmup_steps=4), step) for step in (0, 1, 3, 100)]
    [0.25, 0.5, 1.0, 1.0]
    """
    if recipe.warmup_steps == 0:
        return recipe.learning_rate
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup_steps)
