"""The names of the formats, which the command line shows without loading torch."""

from collections.abc import Mapping
from types import MappingProxyType

OWN_FORMAT = "circuit-lab"

FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "transformer-lens-legacy": "a state dict of TransformerLens's HookedTransformer",
        "original-grokking": "a run of the first grokking code, full_run_data.pth",
        "gpt2-folder": "a HuggingFace GPT-2 folder, also with its layers applied several times",
        "tiny-recursive": "a state dict of a tiny recursive model",
        "transformer-lens-native": "a state dict of TransformerLens 4's boot_native",
        OWN_FORMAT: "a checkpoint, a run folder or a reference model of circuit_lab",
    }
)
"""What `load` reads, by the name that asks for it; all but the last are in `IMPORTERS`."""
