"""AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with decay on weight matrices and embeddings only."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuit_lab.errors import InputError
from circuit_lab.nets import HookedNet
from circuit_lab.training.recipe import OptimizerRecipe, PartName

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's running means of the gradient and of its square, by torch's names."""
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


class FlatAdamW:
    """AdamW over the trained weights of a net as one or two long vectors: those that decay, and the others.

    A small net has some seventy weights, and to go through two vectors takes less time. The net's weights become views
    of the vectors, so that whatever reads or writes one reads or writes the other.

    Attributes:
        vectors: The weights, `[n]` each, those that decay first; with their gradients from `gather_gradients` on.
        decays: Whether each of them decays.
        moments: AdamW's two moments: "exp_avg" and "exp_avg_sq" -> a vector like each of `vectors`; 0 before the first
            step.
        n_steps: Calls of `step`: a number on the device for each of the vectors.

    Args:
        net: The net, on its device.
        recipe: Betas, eps and decay; the rate is that of each step.
    """

    def __init__(self, net: HookedNet, recipe: OptimizerRecipe) -> None:
        trained = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
        groups = [[name for name in trained if is_decayed(name) == decays] for decays in (True, False)]
        self._groups = [{name: trained[name] for name in names} for names in groups if names]
        self.decays = [is_decayed(next(iter(group))) for group in self._groups]
        values = [torch.cat([weight.detach().flatten() for weight in group.values()]) for group in self._groups]
        self.vectors = [nn.Parameter(value) for value in values]
        self._adamw = torch.optim.AdamW(
            [
                {"params": [vector], "weight_decay": recipe.weight_decay if decays else 0.0}
                for vector, decays in zip(self.vectors, self.decays, strict=True)
            ],
            betas=recipe.betas,
            eps=recipe.eps,
            fused=True,
        )
        self.n_steps = [torch.zeros((), device=net.device) for _ in values]  # torch counts each up by itself
        self.move_to(values, {moment: [torch.zeros_like(value) for value in values] for moment in MOMENTS})

    def by_name(self, vectors: Sequence[Float[Tensor, "*stack _"]]) -> dict[str, Tensor]:
        """What stands for each weight in vectors like `vectors`, or in stacks of such.

        Args:
            vectors: One like each of `vectors`.

        Returns:
            Name of each trained weight -> a view, of the weight's shape after the dimensions of the stack.
        """
        views: dict[str, Tensor] = {}
        for group, vector in zip(self._groups, vectors, strict=True):
            pieces = vector.split([weight.numel() for weight in group.values()], dim=-1)
            for (name, weight), piece in zip(group.items(), pieces, strict=True):
                views[name] = piece.unflatten(-1, weight.shape)
        return views

    def move_to(self, vectors: Sequence[Float[Tensor, " _"]], moments: Mapping[str, Sequence[Tensor]]) -> None:
        """From now on weights and moments are these, not copies of them.

        Args:
            vectors: Values of `vectors`.
            moments: Values of `moments`.
        """
        views = self.by_name(vectors)
        for group in self._groups:
            for name, weight in group.items():
                weight.data = views[name]
        self.moments = {moment: list(values) for moment, values in moments.items()}
        for place, (vector, values) in enumerate(zip(self.vectors, vectors, strict=True)):
            vector.data = values
            state = {moment: self.moments[moment][place] for moment in MOMENTS}
            self._adamw.state[vector] = {"step": self.n_steps[place], **state}

    def zero_grad(self) -> None:
        """Drop the gradients of vectors and weights."""
        for group, vector in zip(self._groups, self.vectors, strict=True):
            vector.grad = None
            for weight in group.values():
                weight.grad = None

    def gather_gradients(self) -> None:
        """Move the gradients of the net's weights, which all have one, to the vectors."""
        for group, vector in zip(self._groups, self.vectors, strict=True):
            gradients = []
            for name, weight in group.items():
                assert weight.grad is not None, f"{name} has no gradient"
                gradients.append(weight.grad.flatten())
                weight.grad = None
            vector.grad = torch.cat(gradients)

    def step(self, rate: float) -> None:
        """One step along the gradients of the vectors.

        Args:
            rate: The learning rate.
        """
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()


def learning_rate(recipe: OptimizerRecipe, step: int) -> float:
    """The rate of one step, counted from 0.

    >>> [learning_rate(OptimizerRecipe(learning_rate=1.0, warmup_steps=4), step) for step in (0, 1, 3, 100)]
    [0.25, 0.5, 1.0, 1.0]
    """
    if recipe.warmup_steps == 0:
        return recipe.learning_rate
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup_steps)
