"""`circuit_lab.load`: any checkpoint, ours or another code's, recognised by what is in it.

1. Ours (a file with our metadata, a run folder, a reference model) go to `load_checkpoint`.
2. Others are read without running anything in them; exactly one importer must recognise what was read.
3. With a task, the net is asked every split. Tensors that were put in the wrong way round give a net at chance, so a
   net that does no better than that on what it was trained on is loaded with a warning.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Importer, Options, Source
from circuit_lab.importers.formats import FORMATS, OWN_FORMAT
from circuit_lab.importers.registry import IMPORTERS
from circuit_lab.importers.source import read_source
from circuit_lab.measures.intervals import proportion_interval
from circuit_lab.tasks import Task
from circuit_lab.tasks.task_spec import task_from_words
from circuit_lab.training import Checkpoint, Origin, load_checkpoint, resolve_checkpoint
from circuit_lab.training.checkpoint import METADATA_KEY, weights_hash
from circuit_lab.training.device import check_dtype, resolve_device
from circuit_lab.training.evaluation import SplitScore, split_scores
from circuit_lab.training.recorded_task import check_task_fits
from circuit_lab.training.run_folder import CHECKPOINTS

CLEARLY_ABOVE_CHANCE = 2.0
"""A trained net answers its training queries far more often than twice by chance; one whose weights stand in the wrong
places seldom does, though what is left of their structure may lift it a little above chance."""


class AtChance(UserWarning):
    """A foreign net answers the task that was given with it no better than by chance."""


def load(
    path: str | Path,
    *,
    format: str | None = None,
    task: Task | str | Path | None = None,
    config: str | Path | None = None,
    n_passes: int = 1,
    weights: str = "auto",
    step: int | None = None,
    device: str = "cpu",
) -> Checkpoint:
    """Load a checkpoint of circuit_lab or of another code. Nothing in it is run; what is not understood is refused.

    Args:
        path: A file or folder; of ours also a run folder, or a reference model's name.
        format: A name in `circuit_lab.importers.IMPORTERS`, or "circuit-lab"; by default recognised by content.
        task: What the net was trained on: a task, or words such as "modular:p=113,train_share=0.3", a dataset
            folder, or a recipe. A checkpoint of ours has its own; if one is given, it must be the same.
        config: A JSON file with the net's settings, where a foreign checkpoint has none.
        n_passes: How often the layers are applied in a row: 2 for the recurrent variant of a GPT-2 folder.
        weights: Which copy to take where a file has both: "raw", or their moving average ("ema"). "auto": the average.
        step: Which of several checkpoints in a file; the last by default.
        device: Where the net goes: "auto", "cpu", "cuda", "mps".

    Returns:
        The checkpoint. `origin` says what was inferred and what was ignored; `metrics` has the accuracy on every split
        of the task.

    A checkpoint or an argument that is not understood is an InputError that says what, where, and the fix.
    """
    given = task_from_words(str(task)) if isinstance(task, str | Path) else task
    options = Options(
        config=None if config is None else Path(config), n_passes=n_passes, weights=weights, step=step, task=given
    )
    _check_options(format, options)
    place = _place(path, format)
    if format == OWN_FORMAT:
        return _load_own(place, options, device)
    source = read_source(place)
    if format is None and METADATA_KEY in source.metadata:
        return _load_own(place, options, device)
    return _load_foreign(source, format, options, device)


def _check_options(format: str | None, options: Options) -> None:
    if format is not None and format not in FORMATS:
        raise InputError(f"unknown format {format!r}; the formats are: {', '.join(FORMATS)}")
    if options.n_passes < 1:
        raise InputError(f"n_passes must be at least 1, got {options.n_passes}")
    if options.weights not in ("auto", "raw", "ema"):
        raise InputError(f'weights must be "auto", "raw" or "ema", got {options.weights!r}')
    if options.config is not None and not options.config.is_file():
        raise InputError(f"no config at {options.config}: there is no such file; give a JSON file")


def _place(path: str | Path, format: str | None) -> Path:
    """The file or folder that is meant: of ours also by a run folder, or a reference model's folder or name."""
    if format not in (None, OWN_FORMAT):
        return Path(path)
    try:
        return resolve_checkpoint(path)
    except InputError:
        if format is None and Path(path).is_dir() and not (Path(path) / CHECKPOINTS).exists():
            return Path(path)  # no run of ours: another code's folder, perhaps
        raise


def _load_own(path: Path, options: Options, device: str) -> Checkpoint:
    """A checkpoint of ours, which needs no word about itself."""
    given = {
        "config": options.config is not None,
        "n_passes": options.n_passes != 1,
        "weights": options.weights != "auto",
        "step": options.step is not None,
    }
    for name in (name for name, is_given in given.items() if is_given):
        raise InputError(f"{path} is a checkpoint of circuit_lab, which says its own {name}; leave {name} out")
    return load_checkpoint(path, device=device, task=options.task)


def recognise(source: Source) -> Importer:
    """The one importer whose dialect a source is in.

    Args:
        source: What was read.

    Returns:
        The importer.

    Raises:
        InputError: If none recognises it, or several do.
    """
    found = [importer for importer in IMPORTERS.values() if importer.recognises(source)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(importer.name for importer in found)
        raise InputError(f"{source.path} could be {names}; say which with format (on the command line: --format)")
    known = "; ".join(f"{name}: {description}" for name, description in FORMATS.items())
    raise InputError(f"{source.path} is in no format that is known here. The formats are {known}")


def _load_foreign(source: Source, format: str | None, options: Options, device: str) -> Checkpoint:
    importer = recognise(source) if format is None else IMPORTERS[format]
    imported = importer.read(source, options)
    where = resolve_device(device)
    check_dtype(imported.net.dtype, where, place=str(source.path))
    net = imported.net.to(where).eval()
    task = options.task if imported.task is None else imported.task
    scores: dict[str, SplitScore] = {}
    if task is not None:
        check_task_fits(source.path, net, task)
        scores = split_scores(net, task)
        warn_at_chance(source.path, task, scores)
    step_unknown = (
        () if imported.step is not None else ("step = 0 (the file does not say after how many steps it was)",)
    )
    return Checkpoint(
        net=net,
        given_task=task,
        step=imported.step or 0,
        metrics={name: score.accuracy for name, score in scores.items()},
        recipe={},
        path=source.path,
        weights_hash=weights_hash(net.unique_state_dict()),
        origin=Origin(
            format=importer.name,
            file=source.path.resolve().name,
            inferred=(*imported.inferred, *step_unknown),
            ignored=imported.ignored,
        ),
    )


def warn_at_chance(path: Path, task: Task, scores: Mapping[str, SplitScore]) -> None:
    """Warn where a net answers what it was trained on about as often as by chance.

    Args:
        path: The checkpoint, named in the warning.
        task: The task.
        scores: Its splits' scores.
    """
    asked = {name: score for name, score in scores.items() if name in task.chance}
    name, score = max(asked.items(), key=lambda item: item[1].n)
    chance, interval = task.chance[name], proportion_interval(round(score.accuracy * score.n), score.n)
    if interval.low <= CLEARLY_ABOVE_CHANCE * chance:
        warnings.warn(
            f"{path} is near chance: {score.accuracy:.3f} of {score.n} {name} queries right [{interval.low:.3f}, "
            f"{interval.high:.3f}], by chance {chance:.3f}. Either it is untrained, or the task is not the one it was "
            "trained on (modulus, operation, order of tokens), or its layers are applied more often (n_passes), or its "
            "tensors are not in the layout they seem to be in",
            AtChance,
            stacklevel=4,
        )
