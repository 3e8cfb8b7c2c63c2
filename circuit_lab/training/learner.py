"""What one optimiser step needs in memory, whole on its device, and the step itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils.flop_counter import FlopCounterMode

from circuit_lab.nets import (
    DistinctInputs,
    HookedNet,
    HookedSharedTransformer,
    Prefixes,
    PrefixTree,
    build_net,
    distinct_inputs,
)
from circuit_lab.tasks import Task
from circuit_lab.training.acceleration import autocast, check_acceleration, compiled, matmul_precision
from circuit_lab.training.batches import BatchStream
from circuit_lab.training.checkpoint import Checkpoint
from circuit_lab.training.data_parallel import ALONE, Processes
from circuit_lab.training.losses import answer_loss
from circuit_lab.training.optimizer import FlatAdamW, freeze_all_but, learning_rate
from circuit_lab.training.recipe import Recipe
from circuit_lab.training.regularisation import add_penalty_gradient, norm_of
from circuit_lab.training.weight_average import WeightAverage


class Learner:
    """A net that learns a task by a recipe, a step at a time; nothing is read or written.

    A part that the net does not have and arithmetic that the device cannot do are an InputError.

    Attributes:
        net: The net, in `train` mode, with the weights of the last step.
        optimizer: Its optimiser, which has the weights that are trained as vectors.
        average: The average of its weights; None if the recipe has none.
        first_norm: Euclidean norm of the trained weights before the first step of the run.
        items: Tokens, answers and answer positions of all training items, on the device; where a step takes them all,
            this process's share of them.
        batches: Which of them each step draws; None where a step takes them all.

    Args:
        recipe: How.
        task: What.
        device: Where.
        parent: Whose weights to start from; None for the net's initial ones.
        processes: Which learn together, each on its share of every batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        device: torch.device,
        parent: Checkpoint | None,
        processes: Processes = ALONE,
    ) -> None:
        check_acceleration(recipe.training, device)
        self.recipe, self.device, self._processes = recipe, device, processes
        config = recipe.net_config(d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=task.n_ctx)
        dtype = getattr(torch, recipe.training.dtype)
        self.net: HookedNet = build_net(config).to(dtype)
        if parent is not None:
            self.net.load_unique_state_dict(parent.net.to(dtype).unique_state_dict())
        self.net.to(device).train()
        freeze_all_but(self.net, recipe.optimizer.only)
        self.optimizer = FlatAdamW(self.net, recipe.optimizer)
        self.first_norm = norm_of(self.optimizer.vectors)
        decay = recipe.training.ema_decay
        self.average = WeightAverage(self.net, decay=decay) if decay > 0 else None
        self._put_items_on_the_device(task)
        self._loss_dtype = getattr(torch, recipe.training.loss_dtype)
        # The number of distinct prefixes changes from step to step.
        self._loss = compiled(
            self._plain_loss, recipe.training, dynamic=recipe.training.compile and self.prefix_tree is not None
        )

    def _put_items_on_the_device(self, task: Task) -> None:
        items, size = task.training, self.recipe.training.batch_size
        device = self.device
        self._weight_of_share = self._processes.weight_of_share(len(items) if size == "full" else size)
        parts = (items.tokens, items.answer, items.answer_position)
        tokens, answer, answer_position = map(self._processes.share, parts) if size == "full" else parts
        self.items = (tokens.to(device), answer.to(device), answer_position.to(device))
        seed = self.recipe.training.seed
        self.batches = None
        if size != "full":
            self.batches = BatchStream(seed=seed, n_items=len(items), batch_size=size, device=device)

    @cached_property
    def inputs(self) -> DistinctInputs | None:
        """The distinct inputs of all training items, where a step takes them all and looking them up saves work.

        Not in bfloat16: the gradient of what is looked up is a sum over all items, which needs more bits.
        """
        net, plain = self.net, self.recipe.training.precision != "bf16"
        if self.batches is None and plain and isinstance(net, HookedSharedTransformer) and net.cfg.n_layers == 1:
            tokens, _, answer_position = self.items
            inputs = distinct_inputs(tokens, answer_position)
            return inputs if inputs.saves else None
        return None

    @cached_property
    def prefix_tree(self) -> PrefixTree | None:
        """The prefixes of all training items, where steps take some of them and sharing their beginnings saves work.

        Not in bfloat16, as for `inputs`.
        """
        net, plain = self.net, self.recipe.training.precision != "bf16"
        tokens, _, answer_position = self.items
        if self.batches is not None and plain and isinstance(net, HookedSharedTransformer):
            return PrefixTree(tokens, answer_position) if net.gains_by_prefixes(tokens.shape[1]) else None
        return None

    def step(self, step: int) -> Tensor:
        """One optimiser step.

        Args:
            step: Which, counted from 0; it fixes batch and rate.

        Returns:
            The loss before the step, in nats, a number on the device.
        """
        return self.step_on(None if self.batches is None else self._processes.share(self.batches.rows(step)), step)

    def step_on(self, rows: Int[Tensor, " batch"] | None, step: int) -> Tensor:
        """One optimiser step on training items of the caller's choice, None for all; otherwise as `step`."""
        optimizer, vectors = self.optimizer, self.optimizer.vectors
        if self.recipe.training.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with matmul_precision(self.recipe.training):
            loss = self._loss(*self._batch(rows))
            optimizer.zero_grad()
            loss.backward()
        optimizer.gather_gradients()
        loss = self._processes.combine(vectors, loss.detach(), weight_of_share=self._weight_of_share)
        self._add_penalties()
        if self.recipe.optimizer.max_gradient_norm > 0:
            clip_grad_norm_(vectors, self.recipe.optimizer.max_gradient_norm)
        optimizer.step(learning_rate(self.recipe.optimizer, step))
        if self.recipe.optimizer.fixed_norm:
            self._restore_norm()
        if self.average is not None:
            self.average.update()
        return loss

    @torch.no_grad()
    def _add_penalties(self) -> None:
        l1, l2 = self.recipe.optimizer.l1, self.recipe.optimizer.l2
        if l1 == 0 and l2 == 0:
            return
        for vector, decays in zip(self.optimizer.vectors, self.optimizer.decays, strict=True):
            if decays:
                assert vector.grad is not None
                add_penalty_gradient(vector.grad, vector, l1=l1, l2=l2)

    @torch.no_grad()
    def _restore_norm(self) -> None:
        scale = self.first_norm / norm_of(self.optimizer.vectors)
        for vector in self.optimizer.vectors:
            vector.mul_(scale)

    def count_flops(self, rows: Int[Tensor, " batch"] | None) -> int:
        """Additions and multiplications of the matrix products of one step, forward and backward; no step is made."""
        with FlopCounterMode(display=False) as counter:
            self._plain_loss(*self._batch(rows)).backward()
        self.optimizer.zero_grad()
        return counter.get_total_flops()

    def _batch(
        self, rows: Int[Tensor, " batch"] | None
    ) -> tuple[Tensor, Tensor, Tensor, DistinctInputs | Prefixes | None]:
        """Arguments of the loss: some training items, or all of them, with what is computed once where that saves."""
        tokens, answer, answer_position = self.items
        once = self._computed_once(rows)
        if rows is None:
            return tokens, answer, answer_position, once
        return tokens[rows], answer[rows], answer_position[rows], once

    def _computed_once(self, rows: Int[Tensor, " batch"] | None) -> DistinctInputs | Prefixes | None:
        """What items share, as long as no hook is there, which would see other shapes."""
        if not isinstance(self.net, HookedSharedTransformer) or self.net.has_hooks:
            return None
        if rows is None:
            return self.inputs
        return None if self.prefix_tree is None else self.prefix_tree.prefixes_of(rows)

    def _plain_loss(
        self,
        tokens: Int[Tensor, "n pos"],
        answer: Int[Tensor, " n"],
        answer_position: Int[Tensor, " n"],
        once: DistinctInputs | Prefixes | None,
    ) -> Float[Tensor, ""]:
        """Mean loss of a batch, in nats."""
        with autocast(self.recipe.training, self.device):
            if once is None:
                logits = self.net(tokens, answer_only=True, answer_position=answer_position)
            else:
                assert isinstance(self.net, HookedSharedTransformer), "nothing is computed once for other nets"
                is_batch = isinstance(once, Prefixes)
                logits = self.net.logits_of_prefixes(once) if is_batch else self.net.logits_of_distinct(once)
        training = self.recipe.training
        options = {"loss": training.loss, "dtype": self._loss_dtype, "scale": training.logit_scale}
        return answer_loss(logits, answer, reduction="mean", **options)

    @contextmanager
    def net_to_show(self) -> Iterator[HookedNet]:
        """The net as it is evaluated and saved: with its averaged weights, if the recipe averages them."""
        if self.average is None:
            yield self.net
        else:
            with self.average.in_the_net():
                yield self.net

    def weight_norm(self) -> float:
        """Euclidean norm over all weights, each counted once."""
        return float(norm_of(self.net.parameters()))
