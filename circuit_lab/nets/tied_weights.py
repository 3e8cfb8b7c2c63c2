"""Weights that several modules hold: made one, stored once, loaded without untying them."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformer_lens import ActivationCache
from transformer_lens.HookedRootModule import HookedRootModule

_ModuleT = TypeVar("_ModuleT", bound=nn.Module)


def tied_copy(module: _ModuleT) -> _ModuleT:
    """A module of its own, with its own hooks and buffers, that holds the very Parameters of `module`."""
    return deepcopy(module, memo={id(parameter): parameter for parameter in module.parameters()})


class TiedRootModule(HookedRootModule):
    """HookedRootModule for a net whose layers share Parameters: caching, saving and loading; the nets build on it.

    Attributes:
        cfg: The net's config, each net's own kind; only its `layer_map` is read here.
    """

    cfg: Any

    def _own_weights(self) -> dict[str, Tensor]:
        """Every Parameter and saved buffer once, by the first name it has."""
        first_names: dict[int, str] = {}
        weights = self.state_dict(keep_vars=True)
        for name, weight in weights.items():
            first_names.setdefault(id(weight), name)
        return {name: weights[name] for name in first_names.values()}

    def run_with_cache(  # pyright: ignore[reportIncompatibleMethodOverride]  (an ActivationCache, not its dict)
        self, *model_args: Any, remove_batch_dim: bool = False, **kwargs: Any
    ) -> tuple[Tensor, ActivationCache]:
        """Run the net and keep its activations.

        Args:
            *model_args: Positional arguments of `forward`.
            remove_batch_dim: Whether to drop the batch dimension, of size 1, from what is kept.
            **kwargs: Arguments of HookedRootModule's `run_with_cache` (`names_filter`, `pos_slice`, ...) and of
                `forward`.

        Returns:
            The logits and an ActivationCache, which reads `cache["resid_post", 3]` as well as full hook names.
        """
        logits, cache = super().run_with_cache(*model_args, remove_batch_dim=remove_batch_dim, **kwargs)
        return logits, ActivationCache(cache, self, has_batch_dim=not remove_batch_dim)

    def unique_state_dict(self) -> dict[str, Tensor]:
        """Every weight once, not copied, under the name it has in the first layer that uses it."""
        return {name: weight.detach() for name, weight in self._own_weights().items()}

    def load_unique_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what `unique_state_dict` gave; names, shapes and types must be this net's own.

        Args:
            state: A tensor for every weight, each once.

        Raises:
            ValueError: If a name is missing or unknown, or a shape or dtype differs. The net is then unchanged.
        """
        own = self._own_weights()
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise ValueError(f"the weights are not those of this net: missing {missing}, unknown {unknown}")
        for name, weight in own.items():
            given = state[name]
            if given.shape != weight.shape or given.dtype != weight.dtype:
                raise ValueError(
                    f"weight {name} must be {list(weight.shape)} {weight.dtype}, "
                    f"got {list(given.shape)} {given.dtype}; build the net from the config the weights belong to, "
                    "and convert it with net.to(dtype) first if they are of another type"
                )
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(state[name])

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a weight for every layer's copy; the copies of one block must agree.

        Args:
            state_dict: Tensors by name.
            strict: Whether names must match exactly.
            assign: Must be False, for it would untie the layers.

        Returns:
            What `torch.nn.Module.load_state_dict` returns.

        Raises:
            ValueError: If `assign` is set, or two copies of one tied weight differ.
        """
        if assign:
            raise ValueError("assign=True would give every layer its own weights and untie them; use assign=False")
        first_name: dict[int, str] = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            first = first_name.setdefault(id(parameter), name)
            both_given = first in state_dict and name in state_dict
            if both_given and not torch.equal(state_dict[first], state_dict[name]):
                raise ValueError(
                    f"{name} differs from {first}, but layer_map = {list(self.cfg.layer_map)} ties them; "
                    "load these weights into a net with another layer_map"
                )
        return super().load_state_dict(state_dict, strict=strict)

    def tl_parameters(self) -> dict[str, Tensor]:
        """Every layer's copy of every weight, by name."""
        return dict(self.named_parameters(remove_duplicate=False))
