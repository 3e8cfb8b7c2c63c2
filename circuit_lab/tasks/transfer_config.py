"""Settings of the transfer task: new facts over the vocabulary of a two-hop task, and which old items are kept.

Source: [He] arXiv 2601.09049 and its released preprocess_training_data.ipynb. The defaults are its numbers: 2,000 new
facts over 2,000 entities, and 8,000 kept items.
"""

from typing import Literal

from pydantic import Field, model_validator

from circuit_lab.tasks.settings import Number
from circuit_lab.tasks.two_hop_config import TwoHopConfig


class TransferConfig(TwoHopConfig):
    """Everything that determines a transfer task: the settings of its base, then its own.

    The base is the two-hop task that a checkpoint was trained on; its settings stand here unchanged. Its `regime` says
    what that checkpoint saw; the transfer task is the same for every regime.

    Attributes:
        kind: Names the task in the table that dispatches.
        new_per_entity: New facts for each entity on average, > 0; their total is rounded up.
        kept_per_new: Kept items for each new fact, > 0, old facts and queries together; without retention it changes
            nothing.
        retention: "closed": the kept items are trained on beside the new facts. "none": the new facts alone are.
    """

    kind: Literal["two_hop_transfer"] = "two_hop_transfer"  # pyright: ignore[reportIncompatibleVariableOverride]
    new_per_entity: Number = Field(default=1.0, gt=0)
    kept_per_new: Number = Field(default=4.0, gt=0)
    retention: Literal["closed", "none"] = "closed"

    @model_validator(mode="after")
    def _base_is_clean(self) -> "TransferConfig":
        for name in ("leaked_share", "shuffled_answers"):
            if getattr(self, name):
                raise ValueError(
                    f"{name} = {getattr(self, name)} makes the base a control, from which nothing can transfer; "
                    f"leave {name} out"
                )
        return self

    @property
    def base(self) -> TwoHopConfig:
        """The task that the checkpoint was trained on, as a query without a place for the answer."""
        own = {*TransferConfig.model_fields} - {*TwoHopConfig.model_fields} | {"kind", "answer_slots"}
        return TwoHopConfig.model_validate(self.model_dump(exclude=own))
