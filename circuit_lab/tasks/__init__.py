"""What is to be learnt: tasks with their queries, splits, chance levels and split certificates."""

from circuit_lab.tasks.answer_slot import in_answer_slots
from circuit_lab.tasks.augmentation import augmentation_rows
from circuit_lab.tasks.fact_graph import FactGraph
from circuit_lab.tasks.groups import NOT_IN_GROUP, AnswerGroup
from circuit_lab.tasks.modular import MODULAR_SPLITS, ModularTask
from circuit_lab.tasks.modular_config import COMMUTATIVE, ModularConfig
from circuit_lab.tasks.modular_splits import SPLITS
from circuit_lab.tasks.natural_language import NaturalLanguageTask, build_natural_language_task
from circuit_lab.tasks.natural_language_config import NaturalLanguageConfig, WorldConfig
from circuit_lab.tasks.natural_language_files import TwoHopQuestions, read_two_hop_questions
from circuit_lab.tasks.natural_language_world import write_world_file
from circuit_lab.tasks.queries import NO_FACT, Queries, SplitCertificate, concatenate, queries_from_tokens
from circuit_lab.tasks.registry import TASKS, Task, TaskConfig, build_task
from circuit_lab.tasks.task_spec import TASK_FORMS, task_from_words
from circuit_lab.tasks.transfer import build_transfer_task
from circuit_lab.tasks.transfer_config import TransferConfig
from circuit_lab.tasks.two_hop import HELD_OUT_SPLITS, TWO_HOP_SPLITS, TwoHopTask
from circuit_lab.tasks.two_hop_config import (
    AUGMENTATION_REGIMES,
    AnswerSlots,
    Augmentation,
    AugmentationPair,
    TwoHopConfig,
    TwoHopFolderConfig,
)
from circuit_lab.tasks.two_hop_folder import read_dataset_folder, write_dataset_folder

__all__ = [
    "AUGMENTATION_REGIMES",
    "COMMUTATIVE",
    "HELD_OUT_SPLITS",
    "MODULAR_SPLITS",
    "NOT_IN_GROUP",
    "NO_FACT",
    "SPLITS",
    "TASKS",
    "TASK_FORMS",
    "TWO_HOP_SPLITS",
    "AnswerGroup",
    "AnswerSlots",
    "Augmentation",
    "AugmentationPair",
    "FactGraph",
    "ModularConfig",
    "ModularTask",
    "NaturalLanguageConfig",
    "NaturalLanguageTask",
    "Queries",
    "SplitCertificate",
    "Task",
    "TaskConfig",
    "TransferConfig",
    "TwoHopConfig",
    "TwoHopFolderConfig",
    "TwoHopQuestions",
    "TwoHopTask",
    "WorldConfig",
    "augmentation_rows",
    "build_natural_language_task",
    "build_task",
    "build_transfer_task",
    "concatenate",
    "in_answer_slots",
    "queries_from_tokens",
    "read_dataset_folder",
    "read_two_hop_questions",
    "task_from_words",
    "write_dataset_folder",
    "write_world_file",
]
