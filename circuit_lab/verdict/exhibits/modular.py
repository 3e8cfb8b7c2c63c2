"""What a report shows of a modular net beyond the evidence."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from circuit_lab.measures import LogitEfficiency, LogitLens, WeightNorms

WITHOUT, ONLY = "without: ", "only: "
"""What stands before an ablation's site in the columns of `ModularExhibits.queries`."""


@dataclass(frozen=True, eq=False)
class ModularExhibits:
    """Single pairs, spectra, and logits of one output; nothing here decides a verdict.

    Attributes:
        vocab: Name of each token id.
        position_names: Names of the positions.
        queries: The pairs shown, one row each: `split`, one column of token ids per position, `answer`, `predicted`,
            `right`, `outcome`, and for each site of the ablation `without: SITE` and `only: SITE` (is the answer right
            without the key frequencies, and with nothing else).
        n_of_outcome: (split, outcome) -> pairs of that outcome in the split as read, shown or not.
        lens: The logit lens on the shown pairs, in their order; target "answer"; five top tokens.
        layer_names: What each effective layer is called: its number, or a recursive net's step.
        attended: Names of the positions that attention sees: those of the tokens, behind a recursive net's "prefix".
        attention: Attention weights of the shown pairs; None in a net that mixes positions by an MLP.
        key_frequencies: Those of the diagnosis, strongest first.
        spectra: Share of the (non-constant) energy by frequency, one row per `component` and `frequency`, with `share`
            in [0, 1], `key`, and `of_component`, how much of the component's variation that function of the inputs, or
            of the result, holds: the embeddings, each attention's and MLP's output at the answer's position (by a and
            b, and by the result), the unembedding, the logits.
        logit_maps: Logits of one output over all (a, b), centred over outputs: "whole", "generalising part",
            "remaining part"; rows a, columns b; NaN where a pair has no result.
        output: Which output they are of (its token's name).
        norms: Norms of the weights by component.
        efficiency: What the weights buy on the training pairs; on all pairs where nobody knows which they are.
        in_training: 1 where the pair is trained on, else 0; rows a, columns b; None where nobody knows.
        seed: Seed of every sample.
    """

    vocab: tuple[str, ...]
    position_names: tuple[str, ...]
    queries: pd.DataFrame
    n_of_outcome: Mapping[tuple[str, str], int]
    lens: LogitLens
    layer_names: tuple[str, ...]
    attended: tuple[str, ...]
    attention: Float[Tensor, "n n_layers n_heads n_ctx n_ctx"] | None
    key_frequencies: tuple[str, ...]
    spectra: pd.DataFrame
    logit_maps: Mapping[str, Float[Tensor, "p p"]]
    output: str
    norms: WeightNorms
    efficiency: LogitEfficiency
    in_training: Float[Tensor, "p p"] | None
    seed: int
