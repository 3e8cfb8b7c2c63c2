"""From a net to a row of the efficiency table, for pure nets only (Varma et al. 2023, arXiv 2309.02390).

Efficiency compares circuits, so a net that holds two says nothing of either. *Memorising* is a net trained on random
labels that knows them. *Generalising* is one of whose held-out logits more than 95 % of the norm is in the generalising
part. The paper reads that share on all pairs; here it is fitted and read on held-out ones, where a memoriser has none.
"""

from circuit_lab.measures.modular.efficiency import EfficiencyRow
from circuit_lab.measures.modular.norms import logit_efficiency
from circuit_lab.measures.modular.trig_decomposition import trig_decomposition
from circuit_lab.measures.sites import predicted_answers
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import ModularTask

PURE_NORM_SHARE = 0.95
KNOWN = 0.99
"""Share of its random labels that a memorising net must know to count as one."""


def generalising_norm_share(net: HookedNet, task: ModularTask) -> float:
    """Share of the norm of the held-out logits that is in the generalising part, in [0, 1].

    Args:
        net: A net.
        task: What it was trained on, with true labels.

    Returns:
        The square root of the energy share on pairs whose mirror image is held out, too.
    """
    return max(trig_decomposition(net, task).splits["test_unmirrored"].energy_share, 0.0) ** 0.5


def is_pure_circuit(net: HookedNet, task: ModularTask) -> bool:
    """Whether a net is the pure case that the labels it was trained on make it; see the module's text."""
    if task.config.labels == "true":
        return generalising_norm_share(net, task) > PURE_NORM_SHARE
    right = predicted_answers(net, task.training) == task.training.answer
    return float(right.double().mean()) >= KNOWN


def efficiency_row(net: HookedNet, task: ModularTask, *, weight_decay: float, seed: int) -> EfficiencyRow:
    """Correct logit on the training pairs and parameter norm of a pure net.

    Args:
        net: A trained net.
        task: What it was trained on.
        weight_decay: What it was trained with; a checkpoint has it as `recipe["optimizer"]["weight_decay"]`.
        seed: Tells apart the trainings at one D, such as `recipe["net"]["init_seed"]`.

    Returns:
        The row; its kind follows from the labels.

    Raises:
        ValueError: If the net is not pure.

    >>> from circuit_lab.training import reference_model
    >>> checkpoint = reference_model("modular-random-labels")
    >>> row = efficiency_row(checkpoint.net, checkpoint.task, weight_decay=1.0, seed=0)
    >>> row.kind, row.n_train, round(row.norm, 1)
    ('memorising', 600, 29.9)
    """
    found = logit_efficiency(net, task.training)
    if not is_pure_circuit(net, task):
        if task.config.labels != "true":
            raise ValueError(f"the net is no pure circuit: it knows less than {KNOWN} of its random labels")
        raise ValueError(
            f"the net is no pure circuit: {generalising_norm_share(net, task):.2f} of the norm of its held-out logits "
            f"is in the generalising part, of which a generalising net has more than {PURE_NORM_SHARE}; a memorising "
            "one is trained on random labels"
        )
    return EfficiencyRow(
        correct_logit=found.correct_logit,
        norm=found.weight_norm,
        n_train=len(task.training),
        weight_decay=weight_decay,
        seed=seed,
        kind="generalising" if task.config.labels == "true" else "memorising",
    )
