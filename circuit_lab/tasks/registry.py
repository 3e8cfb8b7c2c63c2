"""The table of tasks: which builder builds which kind of config."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from circuit_lab.tasks.answer_slot import in_answer_slots
from circuit_lab.tasks.modular import ModularTask
from circuit_lab.tasks.modular_config import ModularConfig
from circuit_lab.tasks.natural_language import build_natural_language_task
from circuit_lab.tasks.natural_language_config import NaturalLanguageConfig
from circuit_lab.tasks.transfer import build_transfer_task
from circuit_lab.tasks.transfer_config import TransferConfig
from circuit_lab.tasks.two_hop import TwoHopTask
from circuit_lab.tasks.two_hop_config import TwoHopConfig, TwoHopFolderConfig
from circuit_lab.tasks.two_hop_folder import build_folder_task

TaskConfig = Annotated[
    TwoHopConfig | TwoHopFolderConfig | TransferConfig | NaturalLanguageConfig | ModularConfig,
    Field(discriminator="kind"),
]
"""Any task's config; as the type of a pydantic field it is chosen by `kind`."""
Task = TwoHopTask | ModularTask
"""Any task: queries in `splits` and `training`, `chance`, `certificate`, and the sizes a net needs."""

TASKS: Mapping[str, Callable[[Any], Task]] = MappingProxyType(
    {
        "two_hop": TwoHopTask.from_config,
        "two_hop_folder": build_folder_task,
        "two_hop_transfer": build_transfer_task,
        "natural_language": build_natural_language_task,
        "modular": ModularTask.from_config,
    }
)


def build_task(config: TaskConfig) -> Task:
    """Build the task of `config` with the builder that `TASKS` lists for its kind, laid out as it says."""
    if isinstance(config, ModularConfig) or config.answer_slots is None:
        return TASKS[config.kind](config)
    task = TASKS[config.kind](config.model_copy(update={"answer_slots": None}))
    assert isinstance(task, TwoHopTask)
    return in_answer_slots(task, d_vocab=config.answer_slots.d_vocab, n_ctx=config.answer_slots.n_ctx)
