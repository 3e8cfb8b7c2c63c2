"""Weight-shared transformers with TransformerLens's hooks, built from a strict config."""

from circuit_lab.nets.config import SharedTransformerConfig
from circuit_lab.nets.distinct_inputs import DistinctInputs, distinct_inputs
from circuit_lab.nets.eval_mode import in_eval_mode
from circuit_lab.nets.memory import queries_at_once, queries_kept
from circuit_lab.nets.prefix_tree import Prefixes, PrefixTree
from circuit_lab.nets.recursive_config import RecursiveTransformerConfig
from circuit_lab.nets.recursive_transformer import HookedRecursiveTransformer
from circuit_lab.nets.registry import NET_CONFIGS, NETS, HookedNet, NetConfig, build_net, net_config, shared_transformer
from circuit_lab.nets.shared_transformer import HookedSharedTransformer
from circuit_lab.nets.sites import LensSite, find_lens_site

__all__ = [
    "NETS",
    "NET_CONFIGS",
    "DistinctInputs",
    "HookedNet",
    "HookedRecursiveTransformer",
    "HookedSharedTransformer",
    "LensSite",
    "NetConfig",
    "PrefixTree",
    "Prefixes",
    "RecursiveTransformerConfig",
    "SharedTransformerConfig",
    "build_net",
    "distinct_inputs",
    "find_lens_site",
    "in_eval_mode",
    "net_config",
    "queries_at_once",
    "queries_kept",
    "shared_transformer",
]
