"""What an importer is given and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Task


@dataclass(frozen=True, eq=False)
class Source:
    """A foreign checkpoint, read without running anything in it.

    Attributes:
        path: The file or folder.
        content: What a file holds: tensors, numbers, strings, in dicts and lists; None for a folder.
        metadata: The metadata of a safetensors file; empty for others.
    """

    path: Path
    content: Any
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What the caller knows and the file may not say.

    Attributes:
        config: A JSON file with the net's settings, where the checkpoint has none and shapes leave some open.
        n_passes: How often the layers are applied in a row; more than 1 is the recurrent variant of a GPT-2 folder.
        weights: Which copy to take where a file holds both: the trained weights ("raw"), or their moving average
            ("ema"). "auto" takes the average.
        step: Which of several checkpoints in one file; None takes the last.
        task: The task given with the checkpoint; None if there is none.
    """

    config: Path | None = None
    n_passes: int = 1
    weights: str = "auto"
    step: int | None = None
    task: Task | None = None


@dataclass(frozen=True, eq=False)
class Imported:
    """A net made from a foreign checkpoint.

    Attributes:
        net: The net, in `eval` mode, on the CPU.
        inferred: What was read off shapes or chosen by default, a sentence each, with the reason.
        ignored: What was left out, a sentence each, with the reason.
        step: Optimiser steps so far; None where the file does not say.
        task: The task that was given, laid out as the net reads it; None where it is asked as it is.
    """

    net: HookedNet
    inferred: tuple[str, ...]
    ignored: tuple[str, ...]
    step: int | None = None
    task: Task | None = None


@dataclass(frozen=True)
class Importer:
    """One dialect.

    Attributes:
        name: Its name in `FORMATS`, by which `--format` asks for it.
        recognises: Whether a source is of this dialect, by its content alone; never raises.
        read: Makes the net; an InputError says what in the source is not understood.
    """

    name: str
    recognises: Callable[[Source], bool]
    read: Callable[[Source, Options], Imported]
