"""The table of nets, and how a config becomes one."""

from circuit_lab.nets.config import SharedTransformerConfig
from circuit_lab.nets.shared_transformer import HookedSharedTransformer

NETS = {"shared_transformer": HookedSharedTransformer}
"""The class of each `kind` of config."""

NetConfig = SharedTransformerConfig
"""Any net's config; `kind` tells them apart."""

HookedNet = HookedSharedTransformer
"""Any net."""


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
