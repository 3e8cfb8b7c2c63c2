"""Many nets of one architecture that learn at once: their weights stacked, one step for all.

1. Each member is an ordinary `Learner`. The vectors that hold its trained weights and their moments become rows of
   stacks `[member, n]`, so that whatever reads or writes them (evaluation, saving, averaging) reads or writes those.
2. The gradients of all members come from one `torch.func.vmap` over the gradient of one member's mean loss by its
   vectors.
3. AdamW works element by element, so the update of a stack is that of its members; rate, decay and clipping, which
   members may differ in, are numbers per member. (torch's optimisers take one number for all.)
4. Full batches of different sizes are padded; a padded item has weight 0 in the mean.

Members get the weights that they would get alone, up to the rounding of matrix products in another order. (The bias of
attention's keys is no exception but looks like one: softmax does not see it, so its gradient is rounding alone, which
AdamW scales up.)
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from circuit_lab.tasks import Task
from circuit_lab.training.acceleration import autocast, compiled, matmul_precision
from circuit_lab.training.learner import Learner
from circuit_lab.training.losses import answer_loss
from circuit_lab.training.optimizer import MOMENTS, learning_rate
from circuit_lab.training.recipe import Recipe
from circuit_lab.training.regularisation import add_penalty_gradient, norm_of

_CLIP_EPS = 1e-6
"""What torch's `clip_grad_norm_` adds to a norm before it divides by it."""


def shared_settings(recipe: Recipe, task: Task) -> dict[str, object]:
    """What members of one stack have in common, defaults spelt out; they may differ in everything else.

    Args:
        recipe: A member's recipe.
        task: Its task, which fixes the net's tokens and positions.

    Returns:
        Tables of settings that can be written as JSON: "net", "optimizer" and "training".
    """
    net = recipe.net_config(d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=task.n_ctx)
    training, optimizer = recipe.training, recipe.optimizer
    only = None if optimizer.only is None else sorted({*optimizer.only})
    return {
        "net": net.model_dump(mode="json", exclude={"init_seed"}),
        "optimizer": {"betas": optimizer.betas, "eps": optimizer.eps, "only": only},
        "training": training.model_dump(mode="json", exclude={"seed", "resume_every"}),
    }


class StackedLearner:
    """Learners that make their steps together, and from now on none alone.

    Attributes:
        learners: The members, as they are after the last step.

    Args:
        learners: Members with equal `shared_settings`; at least one.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self.learners = list(learners)
        first = self.learners[0]
        self._recipe, self._device = first.recipe, first.device
        self._stack_weights()
        self._stack_items()
        self._loss_dtype = getattr(torch, self._recipe.training.loss_dtype)
        self._gradients = compiled(self._plain_gradients, self._recipe.training)

    def step(self, step: int) -> Float[Tensor, " member"]:
        """One optimiser step of every member.

        Args:
            step: Which, counted from 0; it fixes batches and rates.

        Returns:
            Each member's loss before the step, in nats, on the device.
        """
        with matmul_precision(self._recipe.training):
            gradients, losses = self._gradients(*self._batch(step))
        with torch.no_grad():
            self._add_penalties(gradients)
            self._clip(gradients)
            self._update(gradients, step)
            self._restore_norms()
        for learner in self.learners:
            if learner.average is not None:
                learner.average.update()
        return losses.detach()

    def _plain_gradients(
        self,
        tokens: Int[Tensor, "member n pos"],
        answer: Int[Tensor, "member n"],
        answer_position: Int[Tensor, "member n"],
        item_weight: Float[Tensor, "member n"],
    ) -> tuple[list[Float[Tensor, "member _"]], Float[Tensor, " member"]]:
        """Gradient of each member's loss by its vectors, and the loss."""
        first = self.learners[0]

        def loss(vectors, fixed, tokens, answer, answer_position, item_weight):
            with autocast(self._recipe.training, self._device):
                logits = functional_call(
                    first.net,
                    first.optimizer.by_name(vectors) | fixed,
                    (tokens,),
                    {"answer_only": True, "answer_position": answer_position},
                )
            training = self._recipe.training
            options = {"loss": training.loss, "dtype": self._loss_dtype, "scale": training.logit_scale}
            losses = answer_loss(logits, answer, reduction="none", **options)
            return (losses * item_weight).sum()

        return vmap(grad_and_value(loss))(self._vectors, self._fixed, tokens, answer, answer_position, item_weight)

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Every member's items of one step."""
        if self._rows is None:
            return self._items
        rows = torch.stack([stream.rows(step) for stream in self._rows])
        members = torch.arange(len(rows), device=rows.device)[:, None]
        tokens, answer, position, _ = self._items
        return tokens[members, rows], answer[members, rows], position[members, rows], self._equal_weight

    def _add_penalties(self, gradients: Sequence[Float[Tensor, "member _"]]) -> None:
        """Add the gradients of each member's penalties, in place."""
        l1 = self._per_member([learner.recipe.optimizer.l1 for learner in self.learners])
        l2 = self._per_member([learner.recipe.optimizer.l2 for learner in self.learners])
        if not bool((l1 + l2 > 0).any()):
            return
        for gradient, vectors, decays in zip(gradients, self._vectors, self._decays, strict=True):
            if decays:
                add_penalty_gradient(gradient, vectors, l1=l1, l2=l2)

    def _restore_norms(self) -> None:
        """Scale the weights of each member whose norm is fixed to its first one."""
        for place, learner in enumerate(self.learners):
            if learner.recipe.optimizer.fixed_norm:
                rows = [vectors[place] for vectors in self._vectors]
                scale = learner.first_norm / norm_of(rows)
                for row in rows:
                    row.mul_(scale)

    def _clip(self, gradients: Sequence[Float[Tensor, "member _"]]) -> None:
        """Scale each member's gradient down to its largest norm, in place."""
        largest = self._per_member([learner.recipe.optimizer.max_gradient_norm for learner in self.learners])
        if not bool((largest > 0).any()):
            return
        norm = torch.stack([gradient.norm(dim=1) for gradient in gradients]).norm(dim=0)[:, None]
        scale = torch.where(largest > 0, (largest / (norm + _CLIP_EPS)).clamp(max=1.0), 1.0)
        for gradient in gradients:
            gradient.mul_(scale)

    def _update(self, gradients: Sequence[Float[Tensor, "member _"]], step: int) -> None:
        """AdamW's update (Loshchilov and Hutter 2019), decay first, as torch makes it."""
        optimizers = [learner.recipe.optimizer for learner in self.learners]
        rate = self._per_member([learning_rate(optimizer, step) for optimizer in optimizers])
        decay = self._per_member([optimizer.weight_decay for optimizer in optimizers])
        (beta1, beta2), eps = self._recipe.optimizer.betas, self._recipe.optimizer.eps
        corrections = 1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)
        moments = (self._moments[moment] for moment in MOMENTS)
        parts = zip(gradients, self._vectors, *moments, self._decays, strict=True)
        for gradient, vectors, mean, square, decays in parts:
            if decays:
                vectors.mul_(1 - rate * decay)
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            update = square.sqrt().div_(corrections[1] ** 0.5).add_(eps)  # in place: long vectors do not fit in caches
            torch.div(mean, update, out=update)
            vectors.addcmul_(update, -rate / corrections[0])

    def _per_member(self, numbers: Sequence[float]) -> Float[Tensor, "member 1"]:
        dtype = getattr(torch, self._recipe.training.dtype)
        return torch.tensor(numbers, dtype=dtype, device=self._device)[:, None]

    def _stack_weights(self) -> None:
        """From now on a member's trained weights and their moments are rows of the stacks; the rest is copied."""
        optimizers, nets = [learner.optimizer for learner in self.learners], [learner.net for learner in self.learners]
        self._decays = optimizers[0].decays
        self._vectors = _stacked([each.vectors for each in optimizers])
        self._moments = {moment: _stacked([each.moments[moment] for each in optimizers]) for moment in MOMENTS}
        for row, each in enumerate(optimizers):
            moments = {moment: [stack[row] for stack in stacks] for moment, stacks in self._moments.items()}
            each.move_to([stack[row] for stack in self._vectors], moments)
        rest = [{n: part for n, part in _parts(net) if not part.requires_grad} for net in nets]
        self._fixed = {name: torch.stack([parts[name].detach() for parts in rest]) for name in rest[0]}

    def _stack_items(self) -> None:
        """Every member's training items, padded to the largest number; what is drawn of them in each step, if any."""
        items = [learner.items for learner in self.learners]
        n = [len(tokens) for tokens, *_ in items]
        tokens, answer, position = (
            torch.stack([_padded(part, max(n)) for part in parts]) for parts in zip(*items, strict=True)
        )
        dtype = getattr(torch, self._recipe.training.loss_dtype)
        weight = torch.stack(
            [_padded(torch.full((size,), 1 / size, dtype=dtype, device=self._device), max(n)) for size in n]
        )
        self._items = (tokens, answer, position, weight)
        streams = [learner.batches for learner in self.learners]
        self._rows = None if streams[0] is None else [stream for stream in streams if stream is not None]
        if streams[0] is not None:
            size = streams[0].batch_size
            self._equal_weight = torch.full((len(items), size), 1 / size, dtype=dtype, device=self._device)


def _parts(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights and buffers by name."""
    yield from net.named_parameters()
    yield from net.named_buffers()


def _stacked(of_members: Sequence[Sequence[Float[Tensor, " _"]]]) -> list[Float[Tensor, "member _"]]:
    """Every member's first vector in one stack, every member's second one in another."""
    return [torch.stack([vector.detach() for vector in vectors]) for vectors in zip(*of_members, strict=True)]


def _padded(part: Tensor, n: int) -> Tensor:
    """Items, with copies of the first behind them up to `n`, or zeros for numbers that are no indices."""
    if len(part) == n:
        return part
    filling = torch.zeros_like(part[:1]) if part.is_floating_point() else part[:1]
    return torch.cat([part, filling.expand(n - len(part), *part.shape[1:])])
