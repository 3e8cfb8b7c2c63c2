"""From a checkpoint to a diagnosis: the front door, which leads to the way of the task's family."""

from circuit_lab.nets import in_eval_mode
from circuit_lab.tasks import ModularTask
from circuit_lab.verdict.diagnosis import Diagnosis
from circuit_lab.verdict.modular.diagnose import diagnose_modular
from circuit_lab.verdict.settings import Settings
from circuit_lab.verdict.subject import CheckpointLike, Subject, find_subject
from circuit_lab.verdict.two_hop.diagnose import diagnose_two_hop


def diagnose(
    checkpoint: CheckpointLike,
    *,
    seed: int = 0,
    n_partners: int = 6,
    max_queries_per_split: int = 10_000,
    device: str = "cpu",
) -> Diagnosis:
    """Tell which mechanism a net's answers go through, by causal evidence.

    A two-hop net: do they go through the bridge? A modular net: do they go through a few frequencies of the inputs?

    Args:
        checkpoint: A checkpoint file, a run folder (its last checkpoint), a reference model's folder or name, a loaded
            checkpoint, or a pair (net, task).
        seed: Seed of partners, random subspaces, samples and resamples; the global random state is neither used nor
            moved.
        n_partners: Transplants per two-hop query, test and site.
        max_queries_per_split: Larger splits are sampled down to this many queries, with a warning.
        device: Where the net of a checkpoint runs: "auto", "cpu", "cuda", "mps"; a net in memory stays where it is.

    Returns:
        The verdict, with outcomes, evidence, intervals, controls and warnings.

    A checkpoint that cannot be read is a ValueError that says what is wrong, where, and the fix.
    """
    subject = find_subject(checkpoint, device=device)
    return diagnose_subject(subject, Settings(seed, n_partners, max_queries_per_split))


def diagnose_subject(subject: Subject, settings: Settings) -> Diagnosis:
    """The same of a net that is in memory with its task."""
    with in_eval_mode(subject.net):
        if isinstance(subject.task, ModularTask):
            return diagnose_modular(subject, settings)
        return diagnose_two_hop(subject, settings)
