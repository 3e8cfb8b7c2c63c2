from .formats import EXPORT_FORMATS
from .gpt2_folder import export_gpt2
from .hub import from_pretrained, push_to_hub, save_pretrained
from .legacy_transformer_lens import export_legacy
from .onnx import export_onnx
from .registry import EXPORTERS

__all__ = [
    "EXPORTERS",
    "EXPORT_FORMATS",
    "export_gpt2",
    "export_legacy",
    "export_onnx",
    "from_pretrained",
    "push_to_hub",
    "save_pretrained",
]
