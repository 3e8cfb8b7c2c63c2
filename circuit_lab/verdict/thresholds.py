"""Every threshold of the verdict, in one place, each with its reason.

Where an interval straddles the threshold that a verdict rests on, the verdict is `inconclusive`.
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
