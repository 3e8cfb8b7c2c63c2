"""Many nets of one architecture that learn at once: their weights stacked, one step for all.

1. Each member is an ordinary `Learner`. Its weights and moments become views of stacks `[member, ...]`, so that
   whatever reads or writes a member (evaluation, saving, averaging) reads or writes the stack.
2. The gradients of all members come from one `torch.func.vmap` over the gradient of one member's mean loss.
3. AdamW works element by element, so the update of a stack is that of its members; rate, decay and clipping, which
   members may differ in, are numbers per member. (torch's optimisers take one number for all.)
4. Full batches of different sizes are padded; a padded item has weight 0 in the mean.

Members get the weights that they would get alone, up to the rounding of matrix products in another order. (The bias of
attention's keys is no exception but looks like one: softmax does not see it, so its gradient is rounding alone, which
AdamW scales up.)
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from circuit_lab.tasks import Task
from circuit_lab.training.acceleration import autocast, compiled, matmul_precision
from circuit_lab.training.learner import Learner
from circuit_lab.training.losses import answer_loss
from circuit_lab.training.optimizer import is_decayed, learning_rate
from circuit_lab.training.recipe import Recipe
from circuit_lab.training.regularisation import add_penalty_gradient, norm_of
from circuit_lab.training.resume import MOMENTS

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
        self._weights, self._buffers = stack_module_state([learner.net for learner in self.learners])
        self._trained = [name for name, weight in first.net.named_parameters() if weight.requires_grad]
        self._moments = {moment: self._stacked_moments(moment) for moment in MOMENTS}
        self._steps_done = torch.zeros((), device=self._device)
        self._point_members_into_stacks()
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
    ) -> tuple[dict[str, Tensor], Float[Tensor, " member"]]:
        """Gradient of each member's loss by its trained weights, and the loss."""
        fixed = {name: weight for name, weight in self._weights.items() if name not in self._trained} | self._buffers
        trained = {name: self._weights[name] for name in self._trained}

        def loss(trained, fixed, tokens, answer, answer_position, item_weight):
            with autocast(self._recipe.training, self._device):
                logits = functional_call(
                    self.learners[0].net,
                    trained | fixed,
                    (tokens,),
                    {"answer_only": True, "answer_position": answer_position},
                )
            training = self._recipe.training
            options = {"loss": training.loss, "dtype": self._loss_dtype, "scale": training.logit_scale}
            losses = answer_loss(logits, answer, reduction="none", **options)
            return (losses * item_weight).sum()

        return vmap(grad_and_value(loss))(trained, fixed, tokens, answer, answer_position, item_weight)

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Every member's items of one step."""
        if self._rows is None:
            return self._items
        rows = torch.stack([stream.rows(step) for stream in self._rows])
        members = torch.arange(len(rows), device=rows.device)[:, None]
        tokens, answer, position, _ = self._items
        return tokens[members, rows], answer[members, rows], position[members, rows], self._equal_weight

    def _add_penalties(self, gradients: Mapping[str, Float[Tensor, "member ..."]]) -> None:
        """Add the gradients of each member's penalties, in place."""
        l1 = self._per_member([learner.recipe.optimizer.l1 for learner in self.learners])
        l2 = self._per_member([learner.recipe.optimizer.l2 for learner in self.learners])
        if not bool((l1 + l2 > 0).any()):
            return
        for name, gradient in gradients.items():
            if is_decayed(name):
                add_penalty_gradient(gradient, self._weights[name], l1=_over(l1, gradient), l2=_over(l2, gradient))

    def _restore_norms(self) -> None:
        """Scale the weights of each member whose norm is fixed to its first one."""
        for place, learner in enumerate(self.learners):
            if learner.recipe.optimizer.fixed_norm:
                weights = [self._weights[name][place] for name in self._trained]
                scale = learner.first_norm / norm_of(weights)
                for weight in weights:
                    weight.mul_(scale)

    def _clip(self, gradients: Mapping[str, Float[Tensor, "member ..."]]) -> None:
        """Scale each member's gradient down to its largest norm, in place."""
        largest = self._per_member([learner.recipe.optimizer.max_gradient_norm for learner in self.learners])
        if not bool((largest > 0).any()):
            return
        norm = torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
        scale = torch.where(largest > 0, (largest / (norm + _CLIP_EPS)).clamp(max=1.0), 1.0)
        for gradient in gradients.values():
            gradient.mul_(_over(scale, gradient))

    def _update(self, gradients: Mapping[str, Float[Tensor, "member ..."]], step: int) -> None:
        """AdamW's update (Loshchilov and Hutter 2019), decay first, as torch makes it."""
        optimizers = [learner.recipe.optimizer for learner in self.learners]
        rate = self._per_member([learning_rate(optimizer, step) for optimizer in optimizers])
        decay = self._per_member([optimizer.weight_decay for optimizer in optimizers])
        (beta1, beta2), eps = self._recipe.optimizer.betas, self._recipe.optimizer.eps
        corrections = 1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)
        for name, gradient in gradients.items():
            weight, mean, square = self._weights[name], *(self._moments[moment][name] for moment in MOMENTS)
            if is_decayed(name):
                weight.mul_(_over(1 - rate * decay, weight))
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            denominator = (square.sqrt() / corrections[1] ** 0.5).add_(eps)
            weight.sub_(_over(rate / corrections[0], weight) * mean / denominator)
        self._steps_done.fill_(step + 1)

    def _per_member(self, numbers: Sequence[float]) -> Float[Tensor, " member"]:
        dtype = getattr(torch, self._recipe.training.dtype)
        return torch.tensor(numbers, dtype=dtype, device=self._device)

    def _stacked_moments(self, moment: str) -> dict[str, Tensor]:
        """A moment of every member's optimiser; 0 before the first step."""
        stacks = {}
        for name in self._trained:
            parts = []
            for learner in self.learners:
                weight = learner.net.get_parameter(name)
                state = learner.optimizer.state.get(weight, {})
                parts.append(state.get(moment, torch.zeros_like(weight)))
            stacks[name] = torch.stack(parts)
        return stacks

    def _point_members_into_stacks(self) -> None:
        """From now on a member's weights, buffers and moments are views of the stacks."""
        self._weights = {name: stack.detach() for name, stack in self._weights.items()}
        for place, learner in enumerate(self.learners):
            for name, parameter in learner.net.named_parameters():
                parameter.data = self._weights[name][place]
                if name in self._trained:
                    moments = {moment: self._moments[moment][name][place] for moment in MOMENTS}
                    learner.optimizer.state[parameter] = {"step": self._steps_done, **moments}

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


def _padded(part: Tensor, n: int) -> Tensor:
    """Items, with copies of the first behind them up to `n`, or zeros for numbers that are no indices."""
    if len(part) == n:
        return part
    filling = torch.zeros_like(part[:1]) if part.is_floating_point() else part[:1]
    return torch.cat([part, filling.expand(n - len(part), *part.shape[1:])])


def _over(numbers: Float[Tensor, " member"], stack: Tensor) -> Tensor:
    """Numbers per member, shaped to be multiplied with a stack."""
    return numbers.view(-1, *[1] * (stack.ndim - 1))
