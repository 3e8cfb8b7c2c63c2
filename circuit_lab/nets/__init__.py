"""Weight-shared transformers with TransformerLens's hooks, built from a strict config."""

from circuit_lab.nets.config import SharedTransformerConfig
from circuit_lab.nets.registry import NETS, HookedNet, NetConfig, build_net
from circuit_lab.nets.shared_transformer import HookedSharedTransformer
from circuit_lab.nets.sites import LensSite, find_lens_site

__all__ = [
    "NETS",
    "HookedNet",
    "HookedSharedTransformer",
    "LensSite",
    "NetConfig",
    "SharedTransformerConfig",
    "build_net",
    "find_lens_site",
]
