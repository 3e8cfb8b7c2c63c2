"""The table of nets, and how a config becomes one."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, overload

from pydantic import Field, TypeAdapter

from circuit_lab.errors import InputError
from circuit_lab.nets.config import SharedTransformerConfig
from circuit_lab.nets.recursive_config import RecursiveTransformerConfig
from circuit_lab.nets.recursive_transformer import HookedRecursiveTransformer
from circuit_lab.nets.shared_transformer import HookedSharedTransformer

NetConfig = SharedTransformerConfig | RecursiveTransformerConfig
"""Any net's config; `kind` tells them apart."""

HookedNet = HookedSharedTransformer | HookedRecursiveTransformer
"""Any net."""

NETS: Mapping[str, Callable[[Any], HookedNet]] = MappingProxyType(
    {"shared_transformer": HookedSharedTransformer, "recursive_transformer": HookedRecursiveTransformer}
)
"""The class of each `kind` of config."""

NET_CONFIGS: Mapping[str, type[NetConfig]] = MappingProxyType(
    {"shared_transformer": SharedTransformerConfig, "recursive_transformer": RecursiveTransformerConfig}
)
"""The class of config of each kind."""

_NET_CONFIG: TypeAdapter[NetConfig] = TypeAdapter(Annotated[NetConfig, Field(discriminator="kind")])


def net_config(data: Any) -> NetConfig:
    """The config that a recipe's or a checkpoint's table describes.

    Args:
        data: Settings by name; `kind` names the net.

    Returns:
        The config.

    A `kind` that is missing or unknown, or settings that are not that kind's, are a pydantic ValidationError, which is
    a ValueError, with the place of each.

    >>> sizes = {"d_model": 8, "n_heads": 2, "d_vocab": 5, "n_ctx": 3}
    >>> net_config({"kind": "recursive_transformer", "n_blocks": 1, "h_cycles": 2, "l_cycles": 3, **sizes}).n_layers
    8
    """
    return _NET_CONFIG.validate_python(data)


@overload
def build_net(config: SharedTransformerConfig) -> HookedSharedTransformer: ...
@overload
def build_net(config: RecursiveTransformerConfig) -> HookedRecursiveTransformer: ...
def build_net(config: NetConfig) -> HookedNet:
    """A net with the initial weights that its config describes, on the CPU, in float32.

    >>> import torch
    >>> from circuit_lab.nets import SharedTransformerConfig
    >>> sizes = {"d_model": 8, "n_heads": 2, "d_mlp": 16, "d_vocab": 5, "n_ctx": 3}
    >>> net = build_net(SharedTransformerConfig(layer_map=(0, 0, 0), **sizes))
    >>> logits, cache = net.run_with_cache(torch.tensor([[0, 1, 2]]))
    >>> tuple(cache["resid_post", 2].shape)
    (1, 3, 8)
    """
    return NETS[config.kind](config)


def shared_transformer(net: HookedNet, *, place: str) -> HookedSharedTransformer:
    """The net itself, for what is defined on shared transformers only.

    Args:
        net: Any net.
        place: Where it comes from, for the message.

    Returns:
        The net.

    Raises:
        InputError: If it is a recursive one.
    """
    if isinstance(net, HookedRecursiveTransformer):
        raise InputError(
            f"{place} is a recursive transformer, and what is asked for is defined on the one residual stream of a "
            "shared transformer; diagnose, and the measures that take a stage of net.lens_sites, work on both"
        )
    return net
