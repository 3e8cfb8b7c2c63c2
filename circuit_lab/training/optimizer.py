"""AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with decay on weight matrices and embeddings only."""

import torch

from circuit_lab.nets import HookedNet
from circuit_lab.training.recipe import OptimizerRecipe


def is_decayed(name: str) -> bool:
    """Whether weight decay applies: to `W_...`, not to biases (`b_...`, `b`) nor norm scales (`w`).

    The name decides, not the number of dimensions: attention biases are matrices `[head, d_head]`.

    >>> is_decayed("blocks.0.attn.W_Q"), is_decayed("blocks.0.attn.b_Q"), is_decayed("ln_final.w")
    (True, False, False)
    """
    return name.rpartition(".")[2].startswith("W_")


def make_optimizer(net: HookedNet, recipe: OptimizerRecipe) -> torch.optim.AdamW:
    """AdamW in two groups, decayed and not; each tied weight once."""
    named = list(net.named_parameters())
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
