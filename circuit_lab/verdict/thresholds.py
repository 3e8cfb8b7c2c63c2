"""Every threshold of the verdict, in one place, each with its reason.

Where an interval straddles a threshold, and the verdict hangs on which side the number is, it is `inconclusive`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Shares in [0, 1] that the rules compare with.

    Attributes:
        training_learnt: Accuracy on the training items from which training counts as learnt. Below nine in ten, a wrong
            held-out answer may be a fact that was never stored, and says nothing of composition.
        solved: Accuracy from which a held-out split counts as solved: four right answers to one wrong. Runs reported as
            semi-grokked hover at .6 to .8 (arXiv 2601.09049, figure 4), full ones end above .9.
        unsolved: Accuracy below which a held-out split counts as not solved: most answers are wrong, so that the
            reasons for wrong answers describe the net.
        through_bridge: Share of right answers that are mediated from which they count as mostly through the bridge.
        not_through_bridge: Share below which they count as mostly not. Between the two lie mixtures, which deserve no
            single name; the two are symmetric around one half.
        mostly: Share of wrong answers that a single failure must explain to name the verdict: a plain majority.
        max_untestable: Share of a split's queries without enough partners above which a warning is given: the rest
            may no longer stand for the split.
    """

    training_learnt: float = 0.9
    solved: float = 0.8
    unsolved: float = 0.5
    through_bridge: float = 0.6
    not_through_bridge: float = 0.4
    mostly: float = 0.5
    max_untestable: float = 0.2


THRESHOLDS = Thresholds()


@dataclass(frozen=True)
class ModularThresholds:
    """Numbers in [0, 1] that the rules for modular arithmetic compare with.

    Attributes:
        training_learnt: Accuracy on the training pairs from which training counts as learnt.
        solved: Accuracy on held-out pairs from which a net counts as grokked. A whole circuit answers every pair; the
            middling plateaus of semi-grokking (arXiv 2309.02390) stay below.
        unsolved: Accuracy below which held-out pairs count as not solved: most answers are wrong.
        explained: Share of the energy of held-out logits from which the circuit outweighs all else in them.
        not_explained: Share below which it hardly shows: the rest outweighs it three to one, and a memoriser has 0.
        concentrated: Distance of the frequency spectrum from an answer table's (0), from which frequencies count as
            chosen: half the energy would have to move to make it a table's.
        through_circuit: Share of right answers that are lost with the key frequencies alone, from which answers count
            as mostly through the circuit.
        not_through_circuit: Share below which they count as mostly not; symmetric around one half.
        max_mirrored: Share of held-out pairs whose mirror is trained on, above which a warning says that plain test
            accuracy misleads.
    """

    training_learnt: float = 0.9
    solved: float = 0.95
    unsolved: float = 0.5
    explained: float = 0.5
    not_explained: float = 0.25
    concentrated: float = 0.5
    through_circuit: float = 0.6
    not_through_circuit: float = 0.4
    max_mirrored: float = 0.05


MODULAR_THRESHOLDS = ModularThresholds()
