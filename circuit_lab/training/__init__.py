"""Recipe -> run folder -> checkpoints, with exact resumption; their streaming; reference models."""

from circuit_lab.training.checkpoint import Checkpoint, Origin, check_finite, load_checkpoint, save_checkpoint
from circuit_lab.training.cost import TrainingCost, duration, estimate_cost
from circuit_lab.training.device import resolve_device
from circuit_lab.training.evaluation import SplitScore, split_scores
from circuit_lab.training.loop import TrainingInterrupted, train
from circuit_lab.training.many import train_many
from circuit_lab.training.recipe import ParentRecipe, Recipe, load_recipe, parse_recipe
from circuit_lab.training.reference import reference_model, reference_models, resolve_checkpoint
from circuit_lab.training.run_folder import checkpoint_path, latest_checkpoint, read_metrics, write_atomically
from circuit_lab.training.run_identity import is_finished
from circuit_lab.training.stream import run_checkpoints, stream_checkpoints
from circuit_lab.training.training_run import TrainingResult

__all__ = [
    "Checkpoint",
    "Origin",
    "ParentRecipe",
    "Recipe",
    "SplitScore",
    "TrainingCost",
    "TrainingInterrupted",
    "TrainingResult",
    "check_finite",
    "checkpoint_path",
    "duration",
    "estimate_cost",
    "is_finished",
    "latest_checkpoint",
    "load_checkpoint",
    "load_recipe",
    "parse_recipe",
    "read_metrics",
    "reference_model",
    "reference_models",
    "resolve_checkpoint",
    "resolve_device",
    "run_checkpoints",
    "save_checkpoint",
    "split_scores",
    "stream_checkpoints",
    "train",
    "train_many",
    "write_atomically",
]
