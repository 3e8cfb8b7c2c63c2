"""Trained controls: the checkpoints of a grid of runs, labelled by what can be known without the causal measures.

What is known of a trained net is how its data were made and how often it is right. "Surely" below means that the whole
95 % Wilson interval of an accuracy lies on that side of the threshold; thresholds are those of the verdict, because
"learnt" and "solved" are what the verdict's words mean. What none of these rules reaches stays unlabelled.

Two-hop, in this order:

1. `test_ood` surely solved. Where answers were shuffled: `fake_grokking`, for the answer to a query is then that of
   another, drawn at random; no function of its two facts can give it, so it was stored with the query. Where the test
   set leaked into training and `hop1_ood` and `hop2_ood` are both surely below `MAX_COMPOSED`: `fake_grokking` too.
   Composition goes by facts: the OOD facts that answer `test_ood` as first hop are those of `hop1_ood`, and the second
   hop there is an ID fact, composed more often in training; likewise `hop2_ood`. At least .4 of the right answers would
   have to be composed for another verdict, hence .32 of `test_ood` (.8 x .4), and then so would a like share of these
   two, which did not leak. Else unlabelled.
2. `test_ood` neither surely solved nor surely not: unlabelled.
3. Training surely not learnt: `untrained`.
4. Training surely learnt, `test_id` surely below `unsolved`, and the data clean or shuffled: `memorising`. With
   shuffled answers this holds by construction, since `test_id` has shuffled answers too.

Modular:

1. Training surely not learnt: `untrained`.
2. Training surely learnt and labels random: `memorising`, by construction.
3. Training surely learnt, held-out pairs (those that decide the verdict) surely below `unsolved`, and from here until
   `HINDSIGHT` times as many steps never surely above chance: `memorising`. A circuit forms before it shows in the
   accuracy (arXiv 2301.05217), so a checkpoint from which the run goes on to generalise may hold part of one, and so
   may one of whose future nothing is known.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from circuit_lab.nets import HookedSharedTransformer, shared_transformer
from circuit_lab.tasks import ModularTask, Task, TwoHopConfig, build_task
from circuit_lab.training import checkpoint_path, load_checkpoint, load_recipe, read_metrics
from circuit_lab.verdict.calibration.controls import Control, Kind
from circuit_lab.verdict.checks import Share
from circuit_lab.verdict.modular.diagnose import deciding_split
from circuit_lab.verdict.thresholds import MODULAR_THRESHOLDS, THRESHOLDS
from circuit_lab.verdict.verdicts import Verdict

MAX_COMPOSED = 0.25
"""Accuracy on `hop1_ood` and `hop2_ood` below which leaked `test_ood` answers cannot have been composed: under the .32
that composition would give, over the .1 to .2 that a memoriser has there by guessing from the second relation."""

HINDSIGHT = 2
"""How many times its own steps a modular run must have lasted, at chance, for a checkpoint to be called memorising."""

IS_HELD_OUT = {
    "shared": False,
    "bidirectional": False,
    "standard": True,
    "cycle": True,
    "one_layer": False,
    "normed": True,
    "two_layers": True,
}
"""Which half the nets of an architecture belong to: none of those in the held-out half occurs in the other."""

_SCRIPT = "analyses/calibration/train_controls.py"
Scores = Mapping[str, Share]


@dataclass(frozen=True)
class Label:
    """What is known of a checkpoint without the measures.

    Attributes:
        truth: The verdict it must get; None if that is not known.
        mechanism: What it does and why that is known, in a sentence.
    """

    truth: Verdict | None
    mechanism: str


UNKNOWN = Label(None, "How it answers cannot be known from its data and accuracies.")
_NOT_LEARNT = Label(Verdict.UNTRAINED, "Its training items are surely not learnt.")
_ROTE = Label(Verdict.MEMORISING, "Its labels are random, so that what it has learnt was stored item by item.")
_NOTHING_ELSE = Label(Verdict.MEMORISING, "It has learnt its training items, and held-out ones surely not.")
_LEAKED_ROTE = Label(Verdict.FAKE_GROKKING, "Its shuffled test_ood was in training: every answer was stored as it is.")
_LEAKED_TABLE = Label(
    Verdict.FAKE_GROKKING, "Its test_ood was in training, and the same facts do not compose in other queries."
)


def trained_controls(folder: str | Path) -> list[Control]:
    """The checkpoints of a grid of runs as controls, each with its label.

    Args:
        folder: Where `analyses/calibration/train_controls.py` trained: run folders at
            `<task>/<data>/<architecture>/<run>`. Runs that have not ended are left out.

    Returns:
        A control per checkpoint in order of name and step, its net loaded when it is built. The family is "trained/"
        and the first three parts of the path; the name adds run and step (see `run_of`).

    Raises:
        ValueError: If there is no run, or one lies elsewhere or is of an unknown architecture.
    """
    folder = Path(folder)
    runs = sorted(recipe.parent for recipe in folder.rglob("run.toml"))
    if not runs:
        raise ValueError(f"no trained controls in {folder}: it holds no run folder; python {_SCRIPT} --out {folder}")
    return [control for run in runs for control in _controls_of(run, run.relative_to(folder))]


def run_of(name: str) -> str:
    """The run that a trained control is a checkpoint of; checkpoints of one run are not independent.

    >>> run_of("trained/two_hop/leaked/shared/seed=0/step=400")
    'trained/two_hop/leaked/shared/seed=0'
    """
    return name.rpartition("/step=")[0]


def label_two_hop(config: TwoHopConfig, scores: Scores) -> Label:
    """Label a two-hop checkpoint by the first set of rules above.

    Args:
        config: The task, as it was built.
        scores: Right answers per split, and of all "training" items.

    Returns:
        The label.
    """
    if not _surely_below(scores["test_ood"], THRESHOLDS.solved):
        if not _surely_reaches(scores["test_ood"], THRESHOLDS.solved):
            return UNKNOWN
        if config.shuffled_answers:
            return _LEAKED_ROTE
        others = (scores["hop1_ood"], scores["hop2_ood"])
        do_not_compose = all(_surely_below(share, MAX_COMPOSED) for share in others)
        return _LEAKED_TABLE if config.leaked_share > 0 and do_not_compose else UNKNOWN
    if _surely_below(scores["training"], THRESHOLDS.training_learnt):
        return _NOT_LEARNT
    learnt = _surely_reaches(scores["training"], THRESHOLDS.training_learnt)
    if not (learnt and _surely_below(scores["test_id"], THRESHOLDS.unsolved)):
        return UNKNOWN
    if config.shuffled_answers:
        return _ROTE
    return UNKNOWN if config.leaked_share > 0 else _NOTHING_ELSE


def label_modular(task: ModularTask, evaluated: Mapping[int, Scores], *, step: int) -> Label:
    """Label a modular checkpoint by the second set of rules above.

    Args:
        task: The task.
        evaluated: At each step of the run that was evaluated, right answers per split and of all "training" items.
        step: The checkpoint's.

    Returns:
        The label.
    """
    scores, split = evaluated[step], deciding_split(task)
    if _surely_below(scores["training"], MODULAR_THRESHOLDS.training_learnt):
        return _NOT_LEARNT
    if not _surely_reaches(scores["training"], MODULAR_THRESHOLDS.training_learnt):
        return UNKNOWN
    if task.config.labels != "true":
        return _ROTE
    future = [later for other, later in evaluated.items() if other >= step]
    above_chance = any(later[split].interval.low > task.chance[split] for later in future)
    if max(evaluated) < HINDSIGHT * step or above_chance:
        return UNKNOWN
    return _NOTHING_ELSE if _surely_below(scores[split], MODULAR_THRESHOLDS.unsolved) else UNKNOWN


def _surely_below(share: Share, threshold: float) -> bool:
    return share.interval.high < threshold


def _surely_reaches(share: Share, threshold: float) -> bool:
    return share.interval.low >= threshold


def _controls_of(run: Path, place: Path) -> Iterator[Control]:
    """A control per checkpoint of a run; none unless it has ended."""
    *_, architecture = family = _family_parts(place)
    recipe = load_recipe(run / "run.toml")
    if not checkpoint_path(run, recipe.training.n_steps).exists():
        return
    task = build_task(recipe.task)
    steps = sorted(recipe.checkpoints.steps(recipe.training.n_steps))
    evaluated = {record["step"]: _scores(record, task) for record in read_metrics(run)}
    for step in steps:
        label = _label(task, evaluated, step, place)
        yield Control(
            name=f"trained/{place.as_posix()}/step={step}",
            family="/".join(("trained", *family)),
            mechanism=label.mechanism,
            truth=label.truth,
            kind=_kind(task, label),
            held_out=IS_HELD_OUT[architecture],
            build=partial(_load, checkpoint_path(run, step)),
        )


def _family_parts(place: Path) -> tuple[str, ...]:
    """Task, data and architecture of a run, from where it lies."""
    *family, _ = parts = place.parts
    if len(parts) != 4:
        raise ValueError(f"run {place} does not lie at <task>/<data>/<architecture>/<run>, where {_SCRIPT} puts them")
    if family[-1] not in IS_HELD_OUT:
        raise ValueError(
            f"run {place}: the architecture {family[-1]!r} is in neither half; there are: {', '.join(IS_HELD_OUT)}; "
            f"add it to IS_HELD_OUT in {__name__}"
        )
    return tuple(family)


def _scores(record: Mapping[str, Any], task: Task) -> Scores:
    """Right answers per split, from the accuracies of a line of the metrics."""
    n_items = {name: len(queries) for name, queries in task.splits.items()} | {"training": len(task.training)}
    accuracy = {name: record[f"accuracy/{name}"] for name, n in n_items.items() if n}
    return {name: Share(round(value * n_items[name]), n_items[name]) for name, value in accuracy.items()}


def _label(task: Task, evaluated: Mapping[int, Scores], step: int, place: Path) -> Label:
    if isinstance(task, ModularTask):
        return label_modular(task, evaluated, step=step)
    if not isinstance(task.config, TwoHopConfig):
        raise ValueError(f"run {place}: its task was read from {task.config.path}, so how it was made is not known")
    return label_two_hop(task.config, evaluated[step])


def _kind(task: Task, label: Label) -> Kind:
    if label.truth == Verdict.UNTRAINED:
        return "untrained"
    if _has_random_labels(task):
        return "random_labels"
    return "memorising" if label.truth == Verdict.MEMORISING else "trained"


def _has_random_labels(task: Task) -> bool:
    if isinstance(task, ModularTask):
        return task.config.labels != "true"
    return isinstance(task.config, TwoHopConfig) and task.config.shuffled_answers


def _load(path: Path) -> tuple[HookedSharedTransformer, Task]:
    checkpoint = load_checkpoint(path)
    return shared_transformer(checkpoint.net, place=str(path)), checkpoint.task
