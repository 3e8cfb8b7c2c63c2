"""`circuit-lab export`: a checkpoint of ours in another code's layout."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuit_lab.cli.errors import user_errors
from circuit_lab.errors import InputError
from circuit_lab.exporters.formats import EXPORT_FORMATS

if TYPE_CHECKING:
    from circuit_lab.training import Checkpoint

EPILOG = """Examples:\n\n
circuit-lab export two-hop-true-circuit --to gpt2-folder --out exported/gpt2\n\n
circuit-lab export modular-grokked --to transformer-lens-legacy --out exported/grokked.pt\n\n
circuit-lab export modular-grokked --to onnx --out exported/grokked.onnx\n\n
circuit-lab export runs/my-run --to hub-folder --out exported/my-run
"""


def export_command(
    path: Annotated[
        str, typer.Argument(help="A checkpoint file, a run folder, or a reference model by folder or name.")
    ],
    to: Annotated[
        str,
        typer.Option("--to", metavar="FORMAT", help=f"One of: {', '.join(EXPORT_FORMATS)}."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="The file or folder to write.")],
) -> None:
    """Write a checkpoint in the layout of TransformerLens, of HuggingFace's GPT-2, of ONNX, or of a Hub repository.

    An architecture that the layout cannot say is refused, with the reasons.
    """
    with user_errors():
        from circuit_lab.importers.loading import load

        write = _exporter(to)
        written = write(load(path), out)
        typer.echo(f"Written: {written}")


def _exporter(name: str) -> "Callable[[Checkpoint, Path], Path]":
    if name not in EXPORT_FORMATS:
        raise InputError(f"--to {name!r}: unknown format; the formats are: {', '.join(EXPORT_FORMATS)}")
    from circuit_lab.exporters.registry import EXPORTERS

    return EXPORTERS[name]
