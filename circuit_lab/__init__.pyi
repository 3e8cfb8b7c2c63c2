from . import measures, nets, report, tasks, training, verdict
from .nets import HookedSharedTransformer, SharedTransformerConfig, build_net
from .tasks import ModularConfig, ModularTask, Queries, TwoHopConfig, TwoHopTask, build_task
from .training import (
    Checkpoint,
    load_checkpoint,
    load_recipe,
    reference_model,
    reference_models,
    save_checkpoint,
    train,
)
from .verdict import Comparison, Diagnosis, RunDiagnosis, compare, diagnose, diagnose_run

__version__: str

__all__ = [
    "Checkpoint",
    "Comparison",
    "Diagnosis",
    "HookedSharedTransformer",
    "ModularConfig",
    "ModularTask",
    "Queries",
    "RunDiagnosis",
    "SharedTransformerConfig",
    "TwoHopConfig",
    "TwoHopTask",
    "build_net",
    "build_task",
    "compare",
    "diagnose",
    "diagnose_run",
    "load_checkpoint",
    "load_recipe",
    "measures",
    "nets",
    "reference_model",
    "reference_models",
    "report",
    "save_checkpoint",
    "tasks",
    "train",
    "training",
    "verdict",
]
