"""Verdicts, reasons and warnings in plain words."""

from collections.abc import Sequence

from circuit_lab.measures import INPUTS, FrequencyAblation, TrigDecomposition
from circuit_lab.tasks import ModularTask
from circuit_lab.verdict.checks import Decision, Reason
from circuit_lab.verdict.diagnosis import SplitOutcomes
from circuit_lab.verdict.modular.ancestor import Ancestor
from circuit_lab.verdict.modular.evidence import KEY_FREQUENCIES, share_held
from circuit_lab.verdict.modular.unknown_split import verdict_in_words, warning_of_unknown_split
from circuit_lab.verdict.thresholds import MODULAR_THRESHOLDS
from circuit_lab.verdict.verdicts import Verdict

IN_WORDS = {
    Verdict.UNTRAINED: "The training pairs are not learnt; nothing can be said of generalisation.",
    Verdict.MEMORISING: "The training pairs are learnt and held-out ones are not: this net memorises.",
    Verdict.FAKE_GROKKING: "Held-out answers are right, but not through a few frequencies of the inputs.",
    Verdict.TRUE_CIRCUIT: "Held-out answers are right, and they go through a few frequencies of the inputs.",
    Verdict.SEMI_GROKKED: "Generalisation is partial, or its mechanisms are too mixed to call.",
    Verdict.UNGROKKED: "These weights had grokked and no longer generalise: they have come to memorise.",
    Verdict.INCONCLUSIVE: "The intervals straddle a threshold: more pairs are needed to call it.",
}
_SHOWN_FREQUENCIES = 8


def verdict_in_a_sentence(decision: Decision, *, is_known: bool, tested_at_inputs: bool) -> str:
    """The verdict in words, which say less where the split is not known."""
    if is_known:
        return IN_WORDS[decision.certain_verdict]
    return verdict_in_words(decision, tested_at_inputs=tested_at_inputs)


def plain_reasons(
    decision: Decision,
    in_a_sentence: str,
    decomposition: TrigDecomposition,
    key_frequencies: Sequence[str],
    ancestor: Ancestor | None,
) -> tuple[Reason, ...]:
    """The verdict in a sentence, then what it rested on, deciding comparison first."""
    reasons = decision.reasons(in_a_sentence)
    if ancestor is not None:
        reasons.append(Reason(f"It comes from {ancestor.description}.", ()))
    shown = ", ".join(key_frequencies[:_SHOWN_FREQUENCIES]) + (
        ", ..." if len(key_frequencies) > _SHOWN_FREQUENCIES else ""
    )
    n_all, held = len(decomposition.group.irreps), share_held(decomposition, key_frequencies)
    words = (
        f"Key frequencies, strongest first: {shown or 'none'} ({len(key_frequencies)} of {n_all} hold {held:.0%} of "
        "the generalising part)."
    )
    return (*reasons, Reason(words, (KEY_FREQUENCIES,)))


def plain_warnings(
    task: ModularTask,
    outcomes: Sequence[SplitOutcomes],
    ablation: FrequencyAblation,
    held_out: str,
    ancestor: Ancestor | None,
    verdict: Verdict,
) -> tuple[str, ...]:
    """What weakens or limits the verdict, gravest first."""
    warnings = [f"Certificate: {leak}." for leak in task.certificate.leaks]
    if task.certificate.is_known:
        warnings += _mirror_warnings(task, outcomes, held_out, verdict)
    else:
        warnings.append(warning_of_unknown_split(task, verdict))
    for split in outcomes:
        if split.n < split.n_in_split:
            warnings.append(f"{split.split}: read on a sample of {split.n} of {split.n_in_split} pairs.")
    if INPUTS not in ablation.sites:
        warnings.append(
            f"Frequencies of the inputs are not defined for {task.config.operation}: the ablation is made at the "
            "answer alone, which cannot tell a circuit from a table that writes its answers in a few frequencies."
        )
    if ancestor is not None and not ancestor.verified:
        warnings.append("The parent's checkpoint was not found; that it had grokked is taken from the run's record.")
    return tuple(warnings)


def _mirror_warnings(
    task: ModularTask, outcomes: Sequence[SplitOutcomes], held_out: str, verdict: Verdict
) -> list[str]:
    """Where pairs whose mirror is trained on make held-out accuracy look better than it is."""
    if held_out == "test":
        return ["Every held-out pair has its mirror (b, a) in training: memory alone may answer it."]
    mirrored = task.certificate.n_mirrored["test"] / max(task.certificate.n_queries["test"], 1)
    if mirrored <= MODULAR_THRESHOLDS.max_mirrored or verdict not in (Verdict.MEMORISING, Verdict.UNGROKKED):
        return []
    accuracy = {split.split: split.accuracy for split in outcomes}
    return [
        f"Plain test accuracy, {accuracy['test']:.2f}, counts pairs whose mirror (b, a) is in training "
        f"({mirrored:.0%} of them); without those it is {accuracy[held_out]:.2f}."
    ]
