"""A model that runs on from a lens site, in the shape that TransformerLens's subspace tools want."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from circuit_lab.measures.hooked_model import HookedModel, resumed_logits

HOOK = "hook_state"
"""Name of the hook on the state that the model runs on from."""


class ResumedModel(nn.Module):
    """A model that runs on from a lens site, with a hook on the state there, for TransformerLens's tools.

    The model's own hook there does not fire in a resumed pass, and in a recursive net no later one sees this state
    alone. (Not a HookedRootModule, whose `setup` would rename the hooks of the model.)
    """

    def __init__(self, model: HookedModel, stage: str) -> None:
        super().__init__()
        self.model, self.stage = model, stage
        self.hook_state = HookPoint()
        self.hook_state.name = HOOK
        self.training = self.hook_state.training = False  # as the model must be already

    def forward(
        self, states: Float[Tensor, "n rows d_model"], answer_position: Int[Tensor, " n"]
    ) -> Float[Tensor, "n d_vocab_out"]:
        """The logits at the answer position, from what `resume_states` gave."""
        return resumed_logits(self.model, self.hook_state(states), answer_position, start_at=self.stage)

    @contextmanager
    def hooks(self, fwd_hooks: Sequence[tuple[str, Callable[..., Tensor | None]]]) -> Iterator[None]:
        """Functions on the one hook for a while."""
        for name, function in fwd_hooks:
            assert name == HOOK, name
            self.hook_state.add_hook(function)
        try:
            yield
        finally:
            self.hook_state.remove_hooks()
