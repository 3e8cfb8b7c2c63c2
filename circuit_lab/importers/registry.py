"""The table of dialects, in the order in which they are documented."""

from collections.abc import Mapping
from types import MappingProxyType

from circuit_lab.importers.contract import Importer
from circuit_lab.importers.gpt2_folder import GPT2_FOLDER
from circuit_lab.importers.legacy_transformer_lens import LEGACY_TRANSFORMER_LENS
from circuit_lab.importers.native_transformer_lens import NATIVE_TRANSFORMER_LENS
from circuit_lab.importers.original_grokking import ORIGINAL_GROKKING
from circuit_lab.importers.tiny_recursive import TINY_RECURSIVE

_ALL = (LEGACY_TRANSFORMER_LENS, ORIGINAL_GROKKING, GPT2_FOLDER, TINY_RECURSIVE, NATIVE_TRANSFORMER_LENS)

IMPORTERS: Mapping[str, Importer] = MappingProxyType({importer.name: importer for importer in _ALL})
"""Every importer by its name."""
