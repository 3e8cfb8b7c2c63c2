"""The names of the layouts, which the command line shows without loading torch."""

EXPORT_FORMATS = ("transformer-lens-legacy", "gpt2-folder", "onnx", "hub-folder")
"""What a checkpoint can be written as: the keys of `EXPORTERS`."""
