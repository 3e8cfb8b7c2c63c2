"""Do two nets use the same path? The answer, what it rests on, and the thresholds."""

from dataclasses import dataclass
from typing import Literal

import torch

from circuit_lab.nets import HookedNet
from circuit_lab.verdict.checks import Share
from circuit_lab.verdict.comparison.paired_queries import THROUGH_CIRCUIT, Side

SamePath = Literal["yes", "no", "cannot tell"]


@dataclass(frozen=True)
class PathThresholds:
    """Numbers in [0, 1] that the answer compares with. An interval that straddles one gives "cannot tell".

    Attributes:
        lends: Share of the interchanges that the receiver's own states bring about, from which the other net's mapped
            states count as doing the same work: mostly, as for answers that go mostly through the bridge. Of the same
            net in turned coordinates it is above .97; of two true circuits trained from different seeds it is lower.
        control_lends: The same share of an untrained net's states, or through a map fitted on mismatched queries, at
            which the map itself knows the answers and the test says nothing.
        follows_own: Share of interchanges that the receiver's own states must bring about: below one half there is
            little for the other's to do as well as.
        hands_on: Hop-1 rate below which, with its interval, a place counts as not handing on the bridge: mostly not.
        shared_frequencies: Share of the generalising energy that sits in the same frequencies, from which two modular
            circuits count as the same: mostly.
        other_frequencies: The same share below which they count as two circuits of one algorithm; symmetric around
            one half. Two random choices of 4 out of 29 frequencies share .14 on average.
    """

    lends: float = 0.6
    control_lends: float = 0.4
    follows_own: float = 0.5
    hands_on: float = 0.5
    shared_frequencies: float = 0.6
    other_frequencies: float = 0.4


PATH_THRESHOLDS = PathThresholds()


@dataclass(frozen=True)
class PathEvidence:
    """One number that the answer rests on or shows beside it.

    Attributes:
        name: What was measured.
        where: On which queries, or at which sites.
        value: The number; None where it is not defined.
        low: Lower end of its 95 % interval; None without one.
        high: Upper end.
        n: What it is counted over, mostly pairs of queries.
        control: The control's value; None without one.
        compared_with: What the control is, in words.
        decides: Whether the answer rests on it.
    """

    name: str
    where: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    control: float | None
    compared_with: str
    decides: bool

    @classmethod
    def of_share(
        cls,
        name: str,
        where: str,
        share: Share,
        *,
        control: float | None = None,
        compared_with: str = "",
        decides: bool = True,
    ) -> "PathEvidence":
        """A share with its Wilson interval."""
        interval, value = share.interval, share.value if share.n else None
        return cls(name, where, value, interval.low, interval.high, share.n, control, compared_with, decides)


@dataclass(frozen=True)
class PathAnswer:
    """Whether two nets use the same path.

    Attributes:
        same_path: "yes", "no" or "cannot tell".
        reasons: Why, in plain sentences, the deciding one first.
        evidence: The numbers behind it.
    """

    same_path: SamePath
    reasons: tuple[str, ...]
    evidence: tuple[PathEvidence, ...]


def have_same_weights(a: HookedNet, b: HookedNet) -> bool:
    """Whether two nets compute alike and have equal weights, however these were initialised."""
    computed_a, computed_b = (net.cfg.model_dump(exclude={"init_std", "init_seed"}) for net in (a, b))
    if computed_a != computed_b:
        return False
    of_a, of_b = a.unique_state_dict(), b.unique_state_dict()
    return all(torch.equal(weight.cpu(), of_b[name].cpu()) for name, weight in of_a.items())


def share_through_circuit(side: Side, split: str) -> Share:
    """Of a split's right answers that could be tested, those that the diagnosis calls `circuit`."""
    queries = side.read_queries(split)
    if queries is None:
        return Share(0, 0)
    outcomes = queries["outcome"].to_numpy()
    n_circuit, n_shortcut = (int((outcomes == name).sum()) for name in ("circuit", "shortcut"))
    return Share(n_circuit, n_circuit + n_shortcut)


def mediation_evidence(a: Side, b: Side) -> list[PathEvidence]:
    """The share of right answers through the circuit, of each net on each split that both were asked."""
    name = THROUGH_CIRCUIT[a.diagnosis.family]
    return [
        PathEvidence.of_share(f"{name}, {of}", split, share_through_circuit(side, split))
        for split in a.diagnosis.measurements.queries
        if b.read_queries(split) is not None
        for of, side in (("A", a), ("B", b))
    ]


def only_one_through_circuit(a: Side, b: Side, *, mostly: float, mostly_not: float, circuit: str) -> str | None:
    """Why the paths differ, where on some split the right answers of one net alone go through its circuit.

    Args:
        a: The first checkpoint.
        b: The second.
        mostly: Share of right answers that the interval of one must lie above.
        mostly_not: Share that the interval of the other must lie below.
        circuit: What the circuit goes through, in words.

    Returns:
        The first such split with both shares; None if there is none.
    """
    for split in a.diagnosis.measurements.queries:
        of_a, of_b = share_through_circuit(a, split), share_through_circuit(b, split)
        for through, other, names in ((of_a, of_b, "AB"), (of_b, of_a, "BA")):
            apart = through.interval.low >= mostly and other.interval.high <= mostly_not
            if apart and other.n > 0:
                return (
                    f"On {split}, the right answers of {names[0]} go through its {circuit} ({in_words(through)}), and "
                    f"those of {names[1]} do not ({in_words(other)})."
                )
    return None


def in_words(share: Share) -> str:
    """A share with its interval and n.

    >>> in_words(Share(9, 10))
    '0.90 [0.60, 0.98], n = 10'
    """
    return f"{share.value:.2f} [{share.interval.low:.2f}, {share.interval.high:.2f}], n = {share.n}"
