"""What a timeline shows of each checkpoint, read from its diagnosis, and the levels that each quantity may reach.

Two-hop. Training, ID and OOD are the accuracies on all training items, `test_id` and `test_ood`. The hops are the
shares of queries whose majority of hop transplants passes, at one site: of those the diagnosis located, the one that
does best on `train_inferred`, by the lowest of its three tests there. (Chosen on training queries and read on others,
so the choice flatters nothing. Before any site carries the bridge it is the best candidate.) *Mediation* is the share
of testable queries that are answered right *and* through the bridge. The rules of a single checkpoint read the share
among right answers; over a run that share starts from a handful of right answers, and a circuit that answers one query
in twenty is not there yet. On training queries it says when the circuit takes over from memory: they are right before.

Modular. Training and held-out accuracy, the share of held-out logits that the generalising part explains, the share of
right held-out answers through the key frequencies. Then the exchange between the two parts of the logits (Varma et al.
2023, arXiv 2309.02390): the correct logit of the generalising part, that of the rest on training pairs, each by itself
and for each unit of the weights' norm, and their difference, which changes sign when the generalising part takes over.
The norm belongs to all weights: no weight belongs to one part alone, so that only the logits can be told apart.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from circuit_lab.measures import proportion_interval
from circuit_lab.verdict.diagnosis import Diagnosis, Evidence, Unit
from circuit_lab.verdict.modular.evidence import CIRCUIT_ROW, EXPLAINED_ROW
from circuit_lab.verdict.runs.crossings import Level, TimelinePoint
from circuit_lab.verdict.thresholds import MODULAR_THRESHOLDS, THRESHOLDS
from circuit_lab.verdict.two_hop.outcomes import Outcome

TRAINING, ID, OOD, HELD_OUT = "training", "ID", "OOD", "held-out"
MEDIATION_TRAINING, MEDIATION_ID, MEDIATION_OOD = "mediation, training", "mediation, ID", "mediation, OOD"
HOP1_ID, HOP2_ID, HOP1_OOD, HOP2_OOD = "hop 1, ID", "hop 2, ID", "hop 1, OOD", "hop 2, OOD"
EXPLAINED, CIRCUIT = "explained share", "circuit share"
GENERALISING, REMAINING, EXCHANGE = "generalising logit", "remaining logit", "exchange of logits"
NORM, EXCLUDED, RESTRICTED = "weight norm", "excluded loss", "restricted loss"

LEARNT, SOLVED, HALF, LEFT_CHANCE = "learnt", "solved", "half solved", "left chance"
SHOWS, THERE, THROUGH, WORKS, OVERTAKEN = "shows", "there", "through it", "works", "generalising leads"


@dataclass(frozen=True)
class Reading:
    """A number with its interval, as in `Evidence`."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def scaled(self, by: float) -> "Reading":
        """The number and its interval times a positive factor."""
        value, low, high = (None if x is None else x * by for x in (self.value, self.low, self.high))
        return Reading(value, low, high, self.n)


@dataclass(frozen=True)
class Quantity:
    """One line of a timeline.

    Attributes:
        name: Its name.
        unit: As in `Evidence`.
        read: Reads it from a diagnosis; None where the diagnosis does not have it.
        levels: What it can reach, the one that makes its threshold first.
    """

    name: str
    unit: Unit
    read: Callable[[Diagnosis], Reading | None]
    levels: tuple[Level, ...] = ()


@dataclass(frozen=True)
class Family:
    """The timeline of a family of tasks, and which quantity plays which part in it.

    Attributes:
        quantities: Its lines.
        generalisation: The accuracy whose rise is asked about.
        remembered: Accuracies whose loss is forgetting.
        circuit: The quantity that shows the circuit, with its level.
        circuit_in_words: What that level means.
    """

    quantities: tuple[Quantity, ...]
    generalisation: str
    remembered: tuple[str, ...]
    circuit: tuple[str, str]
    circuit_in_words: str


def find_evidence(diagnosis: Diagnosis, name: str, split: str) -> Evidence | None:
    """The first row of that name and split."""
    return next((e for e in diagnosis.evidence if (e.name, e.split) == (name, split)), None)


def _row(name: str, split: str) -> Callable[[Diagnosis], Reading | None]:
    """Reads a row of evidence."""
    return lambda diagnosis: _reading(find_evidence(diagnosis, name, split))


def _held_out_row(name: str) -> Callable[[Diagnosis], Reading | None]:
    """Reads a row of evidence on the held-out pairs that decide."""
    return lambda diagnosis: _reading(find_evidence(diagnosis, name, held_out_split(diagnosis)))


def _reading(row: Evidence | None) -> Reading | None:
    return None if row is None else Reading(row.value, row.low, row.high, row.n)


def held_out_split(diagnosis: Diagnosis) -> str:
    """The split on which a modular diagnosis rests."""
    return next(e.split for e in diagnosis.evidence if e.name == EXPLAINED_ROW and e.decides)


def best_site(diagnosis: Diagnosis) -> str | None:
    """Label of the site that does best on training queries, by the lowest of its three tests; None without any."""
    rates: dict[str, list[float]] = {}
    for row in diagnosis.evidence:
        if row.split == "train_inferred" and row.name in ("hop1", "hop2", "interchange"):
            rates.setdefault(row.site, []).append(row.value or 0.0)
    return max(rates, key=lambda site: min(rates[site]), default=None)


def _at_best_site(name: str, split: str) -> Callable[[Diagnosis], Reading | None]:
    """Reads a causal test on a split at the best site."""

    def read(diagnosis: Diagnosis) -> Reading | None:
        site = best_site(diagnosis)
        rows = (e for e in diagnosis.evidence if (e.name, e.split, e.site) == (name, split, site))
        return _reading(next(rows, None))

    return read


def _mediated(split: str) -> Callable[[Diagnosis], Reading | None]:
    """Reads the share of a split's testable queries that are answered right and through the bridge."""

    def read(diagnosis: Diagnosis) -> Reading | None:
        outcomes = next((s for s in diagnosis.outcomes if s.split == split), None)
        if outcomes is None:
            return None
        through, untestable = (
            round(outcomes.shares[outcome] * outcomes.n) for outcome in (Outcome.CIRCUIT, Outcome.UNTESTABLE)
        )
        n = outcomes.n - untestable
        interval = proportion_interval(through, n)
        return Reading(through / n if n else None, interval.low, interval.high, n)

    return read


def _per_norm(name: str, split: str | None) -> Callable[[Diagnosis], Reading | None]:
    """Reads a logit divided by the norm of all weights; on the held-out pairs that decide where no split is named."""

    def read(diagnosis: Diagnosis) -> Reading | None:
        logit = _reading(find_evidence(diagnosis, name, split or held_out_split(diagnosis)))
        norm = find_evidence(diagnosis, "weight norm", "weights")
        return None if logit is None or norm is None or not norm.value else logit.scaled(1 / norm.value)

    return read


def _exchange(diagnosis: Diagnosis) -> Reading | None:
    """Correct logit of the generalising part less that of the rest; both share an error, so half-widths are added."""
    generalising = find_evidence(diagnosis, _GENERALISING_ROW, held_out_split(diagnosis))
    remaining = find_evidence(diagnosis, _REMAINING_ROW, "train")
    if generalising is None or remaining is None or generalising.value is None or remaining.value is None:
        return None
    ends = (generalising.low, generalising.high, remaining.low, remaining.high)
    assert None not in ends, "both parts of the logits have intervals"
    low, high = ends[0] - ends[3], ends[1] - ends[2]  # type: ignore[operator]
    return Reading(generalising.value - remaining.value, low, high, remaining.n)


_GENERALISING_ROW, _REMAINING_ROW = "correct logit, generalising part", "correct logit, remaining part"
_AT, _MODULAR = THRESHOLDS, MODULAR_THRESHOLDS
_THROUGH = (Level(THERE, _AT.through_bridge),)
_WORKS = (Level(WORKS, _AT.through_bridge),)
"""A hop works from the same share on from which answers count as mostly through the bridge."""

TWO_HOP = Family(
    quantities=(
        Quantity(TRAINING, "share", _row("accuracy", "all training items"), (Level(LEARNT, _AT.training_learnt),)),
        Quantity(
            MEDIATION_TRAINING,
            "share",
            _mediated("train_inferred"),
            (*_THROUGH, Level(SHOWS, _AT.not_through_bridge)),
        ),
        Quantity(ID, "share", _row("accuracy", "test_id"), (Level(SOLVED, _AT.solved),)),
        Quantity(HOP1_ID, "share", _at_best_site("hop1", "test_id"), _WORKS),
        Quantity(HOP2_ID, "share", _at_best_site("hop2", "test_id"), _WORKS),
        Quantity(MEDIATION_ID, "share", _mediated("test_id"), _THROUGH),
        Quantity(HOP1_OOD, "share", _at_best_site("hop1", "test_ood"), _WORKS),
        Quantity(HOP2_OOD, "share", _at_best_site("hop2", "test_ood"), _WORKS),
        Quantity(MEDIATION_OOD, "share", _mediated("test_ood"), _THROUGH),
        Quantity(OOD, "share", _row("accuracy", "test_ood"), (Level(SOLVED, _AT.solved), Level(HALF, _AT.unsolved))),
        Quantity(NORM, "norm", _row("weight norm", "weights")),
    ),
    generalisation=OOD,
    remembered=(TRAINING, ID),
    circuit=(MEDIATION_TRAINING, THERE),
    circuit_in_words=f"at least {_AT.through_bridge:.0%} of the training queries answered through the bridge",
)

MODULAR = Family(
    quantities=(
        Quantity(TRAINING, "share", _row("accuracy", "train"), (Level(LEARNT, _MODULAR.training_learnt),)),
        Quantity(
            EXPLAINED,
            "share",
            _held_out_row(EXPLAINED_ROW),
            (Level(THERE, _MODULAR.explained), Level(SHOWS, _MODULAR.not_explained)),
        ),
        Quantity(CIRCUIT, "share", _held_out_row(CIRCUIT_ROW), (Level(THROUGH, _MODULAR.through_circuit),)),
        Quantity(
            HELD_OUT,
            "share",
            _held_out_row("accuracy"),
            (Level(SOLVED, _MODULAR.solved), Level(HALF, _MODULAR.unsolved)),
        ),
        Quantity(GENERALISING, "logits", _held_out_row(_GENERALISING_ROW)),
        Quantity(REMAINING, "logits", _row(_REMAINING_ROW, "train")),
        Quantity(EXCHANGE, "logits", _exchange, (Level(OVERTAKEN, 0.0),)),
        Quantity(NORM, "norm", _row("weight norm", "weights")),
        Quantity(f"{GENERALISING} per norm", "logits per norm", _per_norm(_GENERALISING_ROW, None)),
        Quantity(f"{REMAINING} per norm", "logits per norm", _per_norm(_REMAINING_ROW, "train")),
        Quantity(EXCLUDED, "nats", _row("excluded loss", "train")),
        Quantity(RESTRICTED, "nats", _held_out_row("restricted loss")),
    ),
    generalisation=HELD_OUT,
    remembered=(TRAINING,),
    circuit=(EXPLAINED, THERE),
    circuit_in_words=f"at least {_MODULAR.explained:.0%} of the held-out logits explained by the generalising part",
)

FAMILIES: Mapping[str, Family] = {"two_hop": TWO_HOP, "modular": MODULAR}
"""The timeline of each `Diagnosis.family`."""


def family_of(diagnosis: Diagnosis) -> Family:
    """The family of a diagnosis, with the floor of its generalisation: chance.

    The floor's ceiling is the level below which a split counts as unsolved.
    """
    family = FAMILIES[diagnosis.family]
    split = "test_ood" if diagnosis.family == "two_hop" else held_out_split(diagnosis)
    accuracy = find_evidence(diagnosis, "accuracy", split)
    assert accuracy is not None and accuracy.control is not None, "an accuracy is always shown beside chance"
    unsolved = (_AT if diagnosis.family == "two_hop" else _MODULAR).unsolved
    floor = Level(LEFT_CHANCE, accuracy.control, ceiling=unsolved)
    quantities = tuple(
        replace(q, levels=(*q.levels, floor)) if q.name == family.generalisation else q for q in family.quantities
    )
    return replace(family, quantities=quantities)


def read_points(diagnosis: Diagnosis, family: Family) -> list[TimelinePoint]:
    """A point for every quantity that a diagnosis has.

    Args:
        diagnosis: Of a checkpoint, so that its step is known.
        family: Its family.

    Returns:
        The points, in the order of the family's quantities.
    """
    assert diagnosis.step is not None, "a checkpoint has a step"
    points = []
    for quantity in family.quantities:
        reading = quantity.read(diagnosis)
        if reading is not None:
            threshold = quantity.levels[0].threshold if quantity.levels else None
            points.append(
                TimelinePoint(
                    step=diagnosis.step,
                    quantity=quantity.name,
                    value=reading.value,
                    low=reading.low,
                    high=reading.high,
                    n=reading.n,
                    threshold=threshold,
                    unit=quantity.unit,
                )
            )
    return points
