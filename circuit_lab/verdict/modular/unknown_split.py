"""The rules where nobody knows which pairs were trained on: what can still be told of a net, and what cannot.

Any pair may be a training pair, so nothing is held out, and what is read may be read of pairs learnt by heart. On a net
that answers by rote the readings are these (the first of the traps in `trig_decomposition`):

| reading | table of all pairs | table of a share f of the pairs |
|---|---|---|
| accuracy on all pairs | 1 | f, and 1 in p of the rest |
| share of the logits explained by the generalising part | 1: every pair has the same row | f |
| concentration of its frequencies | 0: a table has them all | 0 |
| right answers lost with the key frequencies at the inputs | few: it reads single tokens | few |
| right with nothing but the key frequencies at the inputs | few, likewise | few |

So accuracy and explained share tell nothing of rote, and a share of right answers tells nothing of how far a net
generalises: it may have been trained on just those pairs. The other readings stay sound, and all must speak for a
circuit. The last one is asked for here alone: a net that is trained on nearly all pairs has some of the circuit and
learns the rest by heart, and no held-out pair tells. (`tests/verdict/modular/test_unknown_split.py` trains one at
p = 31 for 300 steps on 90 % of the pairs without weight decay: right on .98 of all pairs, .73 of these through the key
frequencies; with nothing but the key frequencies at the inputs on .66, where a grokked net is right on nearly all.)

1. `true_circuit`, a statement about the mechanism: nearly all pairs are answered right, their logits are explained by
   few frequencies, the answers are lost with these, at the inputs as well as at the answer, and nearly all pairs are
   answered right with nothing else. Where the operation has no frequencies of the inputs to remove, a table that writes
   its answers in a few frequencies would pass: never.
2. Everything else is `inconclusive`: with wrong answers the net may be untrained, memorise, have ungrokked or be
   semi-grokked; with right ones that do not go through a few frequencies it may have learnt all pairs by heart, or
   answer held-out ones by another way (`fake_grokking`).
"""

from collections.abc import Callable, Mapping

from circuit_lab.tasks import ModularTask
from circuit_lab.verdict.checks import CheckedPath, Decision, Estimate, Share
from circuit_lab.verdict.modular.rules import CONCENTRATION, Readings
from circuit_lab.verdict.thresholds import MODULAR_THRESHOLDS, ModularThresholds
from circuit_lab.verdict.verdicts import Verdict

ACCURACY = "accuracy on all pairs"
EXPLAINED = "share of the logits of all pairs explained by the generalising circuit"
CIRCUIT = "right answers through the key frequencies"
ALONE = "right with nothing but the key frequencies"


def _alone(readings: Readings) -> Share:
    assert readings.alone is not None, "these rules ask for it, so it must be read"
    return readings.alone


QUANTITIES: Mapping[str, Callable[[Readings], Share | Estimate]] = {
    ACCURACY: lambda r: r.held_out,
    EXPLAINED: lambda r: r.explained,
    CONCENTRATION: lambda r: r.concentration,
    CIRCUIT: lambda r: r.circuit,
    ALONE: _alone,
}
"""Every number that these rules may compare, under the name that explanations use."""
HOW_TO_GIVE_IT = (
    "give the split with the task: split=python_shuffle or split=torch_randperm with train_share and seed, or "
    "train_pairs=FILE"
)


def decide_without_split(
    readings: Readings, *, tested_at_inputs: bool, thresholds: ModularThresholds = MODULAR_THRESHOLDS
) -> Decision:
    """Apply the rules to the point values, whatever their uncertainty.

    Args:
        readings: What was read of all pairs.
        tested_at_inputs: Whether the key frequencies were removed at the inputs, and not at the answer alone.
        thresholds: What to compare with.

    Returns:
        `true_circuit` or `inconclusive`, and the comparisons.
    """

    def rules(turned: frozenset[tuple[str, float]]) -> Decision:
        path = CheckedPath(readings, QUANTITIES, turned)
        is_circuit = _is_circuit(path, thresholds) and tested_at_inputs
        return Decision(Verdict.TRUE_CIRCUIT if is_circuit else Verdict.INCONCLUSIVE, tuple(path.checks), rules)

    return rules(frozenset())


def _is_circuit(path: CheckedPath[Readings], at: ModularThresholds) -> bool:
    return (
        path.reaches(ACCURACY, at.solved)
        and path.reaches(CONCENTRATION, at.concentrated)
        and path.reaches(EXPLAINED, at.explained)
        and path.reaches(CIRCUIT, at.through_circuit)
        and path.reaches(ALONE, at.solved)
    )


def verdict_in_words(decision: Decision, *, tested_at_inputs: bool) -> str:
    """The verdict in a sentence, and what is missing where it is inconclusive.

    Args:
        decision: By `decide_without_split`.
        tested_at_inputs: As there.

    Returns:
        The sentence.
    """
    if decision.certain_verdict == Verdict.TRUE_CIRCUIT:
        return (
            "Nearly all pairs are answered right, and the answers go through a few frequencies of the inputs; whether "
            "any pair was held out is not known."
        )
    return f"Without the split this cannot be called: {_why_not(decision, tested_at_inputs)}; {HOW_TO_GIVE_IT}."


def _why_not(decision: Decision, tested_at_inputs: bool) -> str:
    """Which nets would look like this one."""
    if decision.verdict == Verdict.TRUE_CIRCUIT:
        return "a number that a circuit rests on straddles its threshold"
    accuracy, last = decision.checks[0].number, decision.checks[-1]
    if last.quantity == ACCURACY:
        return (
            f"{accuracy.value:.0%} of all pairs are answered right, and a net that has learnt just these by heart, one "
            "that generalises in part, one that has ungrokked, and, near chance, an untrained one all look like this"
        )
    if last.above:
        assert not tested_at_inputs, "a net that passes everything is a circuit"
        return (
            "this operation has no frequencies of the inputs to remove, and a table of all pairs that writes its "
            "answers in a few frequencies looks like this"
        )
    if last.quantity == ALONE:
        return (
            "a few frequencies alone do not answer nearly all pairs, and a net that has learnt the others by heart "
            "looks like this"
        )
    return (
        "the answers are right but do not go mostly through a few frequencies, and a net that has learnt all pairs by "
        "heart, and one that answers held-out pairs by another way, both look like this"
    )


def warning_of_unknown_split(task: ModularTask, verdict: Verdict) -> str:
    """What a diagnosis of such a task cannot tell.

    Args:
        task: A task whose training pairs nobody knows.
        verdict: The verdict; an inconclusive one says itself what would help.

    Returns:
        A sentence or two.
    """
    what_helps = "" if verdict == Verdict.INCONCLUSIVE else f" To tell, {HOW_TO_GIVE_IT}."
    return (
        f"Which of the {len(task.pairs)} pairs were trained on is not known, so none can be called held out: it cannot "
        "be told whether right answers are learnt by heart, nor whether the net memorises, has ungrokked, is "
        f"semi-grokked or untrained.{what_helps}"
    )
