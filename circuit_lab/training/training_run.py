"""One run: what is evaluated, saved and resumed, whatever makes its optimiser steps."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from circuit_lab.errors import InputError
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Task
from circuit_lab.training.checkpoint import Checkpoint, save_checkpoint
from circuit_lab.training.data_parallel import ALONE, Processes
from circuit_lab.training.evaluation import SplitScore, split_scores
from circuit_lab.training.learner import Learner
from circuit_lab.training.optimizer import learning_rate
from circuit_lab.training.recipe import Recipe
from circuit_lab.training.resume import load_resume, put_state, save_resume, state_tensors
from circuit_lab.training.run_folder import (
    METRICS,
    RESUME,
    append_metrics,
    checkpoint_path,
    drop_metrics_after,
    read_metrics,
)


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        run: The run folder.
        checkpoint: Its last checkpoint.
        accuracy: Accuracy per split at the end, in [0, 1].
        resumed_at: Step at which this call started: 0 for a fresh run, the last step for a finished one.
    """

    run: Path
    checkpoint: Path
    accuracy: dict[str, float]
    resumed_at: int


class TrainingRun:
    """A run: a learner, and the folder that it is saved in.

    Attributes:
        recipe: How it is trained.
        folder: Where it is saved; it need not be there before `start`.
        learner: What is trained.

    Args:
        recipe: See above.
        task: What is learnt.
        folder: See above.
        device: Where the net is.
        parent: Whose weights it starts from; None for the net's initial ones.
        processes: Which train it together; the main one alone reads and writes the folder.
    """

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        folder: Path,
        device: torch.device,
        parent: Checkpoint | None,
        processes: Processes = ALONE,
    ) -> None:
        self.recipe, self.folder, self._task, self._processes = recipe, folder, task, processes
        self.learner = Learner(recipe, task, device, parent, processes)
        n_steps = recipe.training.n_steps
        self._checkpoints = recipe.checkpoints.steps(n_steps)
        self._evaluated = recipe.evaluation.steps(n_steps) | self._checkpoints
        self._saved = 0

    def start(self, show: Callable[[Mapping[str, float]], None]) -> int:
        """Load what was saved, or evaluate the initial weights.

        Args:
            show: Is told the accuracies by split of an evaluation.

        Returns:
            Steps that are done.
        """
        learner = self.learner
        self._saved = load_resume(
            self.folder,
            net=learner.net,
            optimizer=learner.optimizer,
            average=learner.average,
            n_steps=self.recipe.training.n_steps,
        )
        # A fresh run evaluates step 0 again.
        drop_metrics_after(self.folder, self._saved if self._saved > 0 else -1)
        if self._saved == 0:
            self._evaluate(0, show, save=False)
        return self._saved

    def take_state_of_main(self, step: int) -> None:
        """All processes go on from the main one's state after `step` steps."""
        if self._processes.count == 1:
            return
        learner = self.learner
        parts = {"net": learner.net, "optimizer": learner.optimizer, "average": learner.average}
        tensors = self._processes.of_main(state_tensors, **parts)
        if not self._processes.is_main:
            put_state(tensors, step, **parts)

    def is_due(self, step: int, *, interrupted: bool) -> bool:
        """Whether the run is evaluated or saved after a step."""
        return step in self._evaluated or self._is_saved(step, interrupted=interrupted)

    def after_step(
        self, step: int, loss: float, show: Callable[[Mapping[str, float]], None], *, interrupted: bool
    ) -> None:
        """Check that the run converges; evaluate and save it if that is due.

        Args:
            step: Steps done.
            loss: The loss of the last one, in nats.
            show: Is told the accuracies by split of an evaluation.
            interrupted: Whether to save, for training ends here.

        Training that diverges is an InputError.
        """
        self._check_converging(step, loss)
        if step in self._evaluated:
            self._evaluate(step, show, save=step in self._checkpoints)
        if self._is_saved(step, interrupted=interrupted):
            learner = self.learner
            save_resume(self.folder, net=learner.net, optimizer=learner.optimizer, average=learner.average, step=step)
            self._saved = step

    def result(self, *, resumed_at: int) -> TrainingResult:
        """The finished run."""
        return TrainingResult(
            run=self.folder,
            checkpoint=checkpoint_path(self.folder, self.recipe.training.n_steps),
            accuracy=self._final_accuracy(),
            resumed_at=resumed_at,
        )

    def _is_saved(self, step: int, *, interrupted: bool) -> bool:
        training = self.recipe.training
        return step % training.resume_every == 0 or step == training.n_steps or interrupted

    def _final_accuracy(self) -> dict[str, float]:
        """The accuracies of the last step, which a finished run has in its metrics."""
        n_steps = self.recipe.training.n_steps
        final = [record for record in read_metrics(self.folder) if record["step"] == n_steps]
        if not final:
            raise InputError(
                f"{self.folder / METRICS} has no line of step {n_steps}, the last of this finished run; restore it, or "
                f"delete {RESUME} to train this run from the start"
            )
        return {k.removeprefix("accuracy/"): v for k, v in final[-1].items() if k.startswith("accuracy/")}

    def _check_converging(self, step: int, loss: float) -> None:
        """Stop before anything of a net whose numbers have run off is saved."""
        weight_norm = self.learner.weight_norm()
        if math.isfinite(loss) and math.isfinite(weight_norm):
            return
        kept = f"the state of step {self._saved} is kept" if self._saved > 0 else "nothing was saved before"
        raise InputError(
            f"{self.folder}: training diverged: after step {step} the loss is {loss} and the norm of the weights "
            f"{weight_norm}; {kept}; train in another folder with a lower optimizer.learning_rate or a "
            "max_gradient_norm"
        )

    def _evaluate(self, step: int, show: Callable[[Mapping[str, float]], None], *, save: bool) -> None:
        """Score every split, write the metrics and, if asked, keep a checkpoint: of averaged weights, if any."""
        training = self.recipe.training
        loss_dtype = getattr(torch, training.loss_dtype)
        with self.learner.net_to_show() as net:
            options = {"loss": training.loss, "loss_dtype": loss_dtype, "logit_scale": training.logit_scale}
            scores = split_scores(net, self._task, **options)
            record = {"step": step, "learning_rate": learning_rate(self.recipe.optimizer, max(step - 1, 0))}
            record |= {"weight_norm": self.learner.weight_norm(), "loss_dtype": training.loss_dtype}
            record |= {"loss_name": training.loss, "weights": "trained" if self.learner.average is None else "averaged"}
            record["softmax_collapse"] = scores["training"].collapsed
            record |= {f"accuracy/{name}": score.accuracy for name, score in scores.items()}
            record |= {f"loss/{name}": score.loss for name, score in scores.items()}
            append_metrics(self.folder, record)
            show({name: score.accuracy for name, score in scores.items()})
            if save:
                self._save_checkpoint(net, step, scores)

    def _save_checkpoint(self, net: HookedNet, step: int, scores: dict[str, SplitScore]) -> None:
        save_checkpoint(
            checkpoint_path(self.folder, step),
            net=net,
            task=self._task,
            step=step,
            metrics={name: score.accuracy for name, score in scores.items()},
            recipe=self.recipe.model_dump(mode="json", exclude_none=True),
        )
