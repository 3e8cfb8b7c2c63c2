"""Records of made-up diagnoses, as a calibration would write them."""

from circuit_lab.verdict import Share, Verdict
from circuit_lab.verdict.calibration import Record, Settings, TwoHopReadings
from circuit_lab.verdict.two_hop.outcomes import Outcome, OutcomeCounts

N = 400


def readings(*, training=N, id_right=N, ood_right=N, through=1.0, first=0.0, second=0.0):
    """Readings of 400 queries a split; `through` of right answers by the bridge, wrong ones by the hop that fails."""

    def split(right, *, first=0.0, second=0.0):
        counts = dict.fromkeys(map(str, Outcome), 0)
        counts[Outcome.CIRCUIT] = round(through * right)
        counts[Outcome.SHORTCUT] = right - counts[Outcome.CIRCUIT]
        counts[Outcome.FIRST_HOP_FAILURE] = round(first * (N - right))
        counts[Outcome.SECOND_HOP_FAILURE] = round(second * (N - right))
        counts[Outcome.NO_CIRCUIT] = N - sum(counts.values())
        return OutcomeCounts(n=N, n_right=right, counts={str(name): n for name, n in counts.items()})

    return TwoHopReadings(
        training=Share(training, N), test_id=split(id_right), test_ood=split(ood_right, first=first, second=second)
    )


def record(truth, verdict, *, name=None, confidence=1.0, candidates=None, **fields):
    """A record; `candidates` name what an inconclusive diagnosis would be."""
    settings = fields.pop("settings", Settings())
    defaults = {
        "family": "two_hop/shared_table",
        "kind": "known_answer",
        "held_out": False,
        "scored": True,
        "perturbation": None,
        "readings": readings(),
        "sites": (),
        "seconds": 0.5,
    }
    name = f"made_up/{truth}-{verdict}-{confidence}" if name is None else name
    return Record(
        name=name,
        truth=truth if truth is None else Verdict(truth),
        verdict=Verdict(verdict),
        confidence=confidence,
        candidates=candidates if candidates is not None else {verdict: confidence},
        settings=settings,
        key=f"{name} {settings}",
        **defaults | fields,
    )
