"""The table of layouts that a checkpoint can be written in."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from circuit_lab.exporters.gpt2_folder import export_gpt2
from circuit_lab.exporters.hub import save_pretrained
from circuit_lab.exporters.legacy_transformer_lens import export_legacy
from circuit_lab.exporters.onnx import export_onnx
from circuit_lab.training import Checkpoint

EXPORTERS: Mapping[str, Callable[[Checkpoint, Path], Path]] = MappingProxyType(
    {
        "transformer-lens-legacy": export_legacy,
        "gpt2-folder": export_gpt2,
        "onnx": export_onnx,
        "hub-folder": save_pretrained,
    }
)
"""By the name that `circuit-lab export --to` takes."""
