"""From a diagnosis made just now to its exhibits."""

from circuit_lab.nets import in_eval_mode
from circuit_lab.verdict.diagnosis import Diagnosis
from circuit_lab.verdict.exhibits.gather_modular import gather_modular
from circuit_lab.verdict.exhibits.gather_two_hop import gather_two_hop
from circuit_lab.verdict.exhibits.modular import ModularExhibits
from circuit_lab.verdict.exhibits.two_hop import TwoHopExhibits

Exhibits = TwoHopExhibits | ModularExhibits


def gather_exhibits(diagnosis: Diagnosis, *, max_per_outcome: int = 6) -> Exhibits | None:
    """Measure what a report shows beyond the evidence.

    Args:
        diagnosis: A diagnosis that still holds its net (`measurements.subject`).
        max_per_outcome: Queries shown of each split and outcome.

    Returns:
        The exhibits; None for a diagnosis read from JSON, which holds no net.
    """
    if diagnosis.measurements is None:
        return None
    subject = diagnosis.measurements.subject
    gather = gather_modular if diagnosis.family == "modular" else gather_two_hop
    with in_eval_mode(subject.net):
        return gather(subject, diagnosis, max_per_outcome=max_per_outcome)
