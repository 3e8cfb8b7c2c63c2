"""What a report shows of a two-hop net beyond the evidence."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from circuit_lab.measures import ActivationPatching, AttentionPatterns, BridgeGeometry, LogitLens, PathPatching


@dataclass(frozen=True, eq=False)
class TwoHopExhibits:
    """Single queries, maps over sites, and edges; all on samples, and nothing here decides a verdict.

    Attributes:
        vocab: Name of each token id, as the dataset gives it.
        position_names: Names of the positions.
        queries: The queries shown, one row each: `split`, `row` (in the split as read), one column of token ids per
            position, `bridge`, `answer`, `predicted`, `right`, `hop1`, `hop2`, `interchange`, `outcome`.
        n_of_outcome: (split, outcome) -> queries of that outcome in the split as read, shown or not.
        lens: The logit lens on the shown queries, in their order; targets "bridge" and "answer"; five top tokens.
        layer_names: What each effective layer is called: its number, or a recursive net's step.
        attended: Names of the positions that attention sees: those of the tokens, behind a recursive net's "prefix".
        attention: Attention weights of the shown queries; None in a net that mixes positions by an MLP.
        transplants: What single transplants did: one row per shown query, test, site and partner, with `query` (row of
            `queries`), `test`, `site`, `receiver` and `source` (token ids of both queries as tuples), `wanted`,
            `answered`, `passed`; three partners per query, test and site at most.
        site_effects: The three tests at every inner stage and single position, on samples: one row per `split`, `test`,
            `stage`, `position` where some query has the partners, with `located`, `rate` (share of queries whose
            majority of partners passes), `low`, `high` (95 %, by query), `n` (queries), `n_transplants`, `control`.
        edges: Path patching on pairs of `test_id` queries that differ in h, heads of a layer together, each position;
            None where the net or its queries do not allow it.
        why_no_edges: Why the net does not allow it, in a sentence; None if it does.
        patching: Activation patching of the residual stream, by what differs between clean and corrupt query.
        heads: Mean attention patterns over a sample of `test_id`; None in a net that mixes positions by an MLP.
        geometry: Cosines of states with the same and with other bridges; None where there are too few.
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
    transplants: pd.DataFrame
    site_effects: pd.DataFrame
    edges: PathPatching | None
    why_no_edges: str | None
    patching: Mapping[str, ActivationPatching]
    heads: AttentionPatterns | None
    geometry: BridgeGeometry | None
    seed: int
