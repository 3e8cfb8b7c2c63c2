from . import exporters, importers, measures, nets, report, tasks, training, verdict
from .errors import InputError
from .exporters import from_pretrained, push_to_hub, save_pretrained
from .importers import load
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
    "InputError",
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
    "exporters",
    "from_pretrained",
    "importers",
    "load",
    "load_checkpoint",
    "load_recipe",
    "measures",
    "nets",
    "push_to_hub",
    "reference_model",
    "reference_models",
    "report",
    "save_checkpoint",
    "save_pretrained",
    "tasks",
    "train",
    "training",
    "verdict",
]
