"""Do the passes represent queries alike? Linear centred kernel alignment (CKA; Kornblith et al., arXiv 1905.00414).

Between two lens sites at one position, X and Y [n, d_model] the states of n queries:

    CKA = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y))

1. *Rows are distinct*: one query for each different sequence of tokens that the position sees, for copies of a state
   would count as agreement.
2. *Debiased HSIC* (Song et al., JMLR 13, 2012; for CKA: Nguyen et al., arXiv 2010.15327): the biased
   one of the source grows towards 1 as n nears d even for independent states. With K = X X^T and L = Y Y^T, their
   diagonals set to 0:

       HSIC = [tr(K L) + (1'K1)(1'L1) / ((n - 1)(n - 2)) - 2 / (n - 2) 1'K L 1] / (n (n - 3))

   It does not change when X or Y is shifted. With centred columns and k, l the diagonals of X X^T and Y Y^T before they
   are set to 0, K1 = -k and L1 = -l, so d x d products suffice and no n x n matrix is formed:

       HSIC = [|X^T Y|^2 - k.l + (sum k)(sum l) / ((n - 1)(n - 2)) - 2 / (n - 2) k.l] / (n (n - 3))

3. *Interval*: delete-a-group jackknife over random groups of rows, with Student's t (a bootstrap would make copies).
4. *Control*: the rows of Y permuted; about 0 is expected.

A reading: it corroborates and never decides, for sites may be alike in what no layer reads.
"""

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import t as student_t
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from circuit_lab.measures.hooked_model import (
    DEFAULT_BATCH_SIZE,
    HookedModel,
    check_model,
    lens_sites,
    states_at,
)
from circuit_lab.measures.intervals import CONFIDENCE_LEVEL
from circuit_lab.measures.model_facts import is_causal
from circuit_lab.measures.progress import progress
from circuit_lab.measures.result import Result
from circuit_lab.tasks import Queries

_N_GROUPS = 20
"""Groups of the jackknife, each left out once."""
_MIN_ROWS = 8
_NOISE = 1e-5
"""States that differ by less than this share of their length are the same but for rounding."""


@dataclass(frozen=True, eq=False)
class LensSiteCka(Result):
    """Linear CKA between the lens sites at one position.

    Attributes:
        stages: Labels of the lens sites.
        position: Name of the position.
        cka: Debiased CKA; 1 = the same up to rotation, shift and scale, 0 = unrelated (it may be slightly negative);
            `nan` where a site has one state only.
        low: Lower ends of the 95 % jackknife intervals; they are not cut at 1.
        high: Upper ends.
        permuted: CKA with the second site's rows permuted.
        n: Distinct rows.
        seed: Seed of rows, groups and permutation.
    """

    stages: tuple[str, ...]
    position: str
    cka: Float[Tensor, "n_stages n_stages"]
    low: Float[Tensor, "n_stages n_stages"]
    high: Float[Tensor, "n_stages n_stages"]
    permuted: Float[Tensor, "n_stages n_stages"]
    n: int
    seed: int

    def frame(self) -> pd.DataFrame:
        """One row per ordered pair of stages: cka, interval, permuted rows, n."""
        return pd.DataFrame(
            {
                "stage_a": stage_a,
                "stage_b": stage_b,
                "position": self.position,
                "cka": float(self.cka[i, j]),
                "low": float(self.low[i, j]),
                "high": float(self.high[i, j]),
                "permuted": float(self.permuted[i, j]),
                "n": self.n,
            }
            for i, stage_a in enumerate(self.stages)
            for j, stage_b in enumerate(self.stages)
        )


@torch.no_grad()
def lens_site_cka(
    model: HookedModel,
    queries: Queries,
    *,
    position: str,
    max_rows: int = 4096,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> LensSiteCka:
    """How alike the lens sites represent the queries at one position, whatever their coordinates.

    Args:
        model: Any hooked model in `eval` mode.
        queries: Queries of any task.
        position: Name of the position.
        max_rows: Distinct rows used, drawn at random where there are more; bounds memory at this many states per site.
        seed: Seed of rows, groups and permutation; the global random state is not used.
        batch_size: Queries per forward pass.

    Returns:
        CKA of every pair of lens sites.

    Raises:
        ValueError: If there is no such position, or fewer than 8 distinct rows.
    """
    check_model(model)
    column = queries.column(position)
    generator = derive_generator(seed, "rows")
    rows = _distinct_rows(model, queries, column)
    rows = rows[torch.randperm(len(rows), generator=generator)[:max_rows]]
    n = len(rows)
    if n < _MIN_ROWS:
        raise ValueError(f"CKA at {position!r} needs {_MIN_ROWS} queries with different states there, got {n}")
    tokens = queries.tokens[rows]
    stages = [site.label for site in lens_sites(model)]
    states = torch.stack(
        [states_at(model, tokens, stage=stage, batch_size=batch_size)[:, column].double().cpu() for stage in stages]
    )
    permuted = states[:, torch.randperm(n, generator=generator)]
    cka = debiased_cka(states, states)
    margin = _jackknife_margin(states, generator=generator)
    return LensSiteCka(
        stages=tuple(stages),
        position=position,
        cka=cka,
        low=cka - margin,
        high=cka + margin,
        permuted=debiased_cka(states, permuted),
        n=n,
        seed=seed,
    )


def debiased_cka(x: Float[Tensor, "a n d_x"], y: Float[Tensor, "b n d_y"]) -> Float[Tensor, "a b"]:
    """Debiased linear CKA of every representation in `x` with every one in `y`, of the same rows.

    Args:
        x: States, several representations of n rows, n > 3.
        y: The same rows' states in other representations.

    Returns:
        CKA; `nan` where a representation has no variance.

    >>> states = torch.randn(1, 30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> round(float(debiased_cka(states, 3 * states.flip(-1) + 1)), 6)
    1.0
    """
    centred_x, centred_y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    between = torch.stack([torch.stack([_hsic(one, other) for other in centred_y]) for one in centred_x])
    return between / (_own_hsic(x, centred_x)[:, None] * _own_hsic(y, centred_y)).sqrt()


def _own_hsic(states: Float[Tensor, "a n d"], centred: Float[Tensor, "a n d"]) -> Float[Tensor, " a"]:
    """HSIC of each representation with itself; `nan` where its variance is rounding noise."""
    own = torch.stack([_hsic(each, each) for each in centred])
    noise = _NOISE**4 * states.square().sum(2).mean(1).square()
    return own.where(own > noise, torch.nan)


def _hsic(x: Float[Tensor, "n d_x"], y: Float[Tensor, "n d_y"]) -> Float[Tensor, ""]:
    """Debiased HSIC with linear kernels, of states whose columns are centred."""
    n = len(x)
    norms_x, norms_y = x.square().sum(1), y.square().sum(1)
    same_row = norms_x @ norms_y
    of_means = norms_x.sum() * norms_y.sum() / ((n - 1) * (n - 2))
    return ((x.T @ y).square().sum() - same_row + of_means - 2 / (n - 2) * same_row) / (n * (n - 3))


def _distinct_rows(model: HookedModel, queries: Queries, column: int) -> Int[Tensor, " m"]:
    """The first query of each sequence of tokens that this position sees: those up to it in a causal model."""
    seen = queries.tokens[:, : column + 1] if is_causal(model) else queries.tokens
    _, group = seen.unique(dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(seen)).scatter_reduce(0, group, torch.arange(len(seen)), "amin")
    return first.sort().values


def _jackknife_margin(
    states: Float[Tensor, "n_stages n d_model"], *, generator: torch.Generator
) -> Float[Tensor, "n_stages n_stages"]:
    """Half the width of the 95 % interval: Student's t times the delete-a-group jackknife's standard error."""
    n = states.shape[1]
    n_groups = min(_N_GROUPS, n // 2)
    groups = torch.randperm(n, generator=generator).tensor_split(n_groups)
    keeps = [torch.ones(n, dtype=torch.bool).index_fill(0, group, False) for group in groups]
    left_out = torch.stack(
        [debiased_cka(part, part) for part in (states[:, keep] for keep in progress(keeps, label="CKA"))]
    )
    variance = (n_groups - 1) / n_groups * (left_out - left_out.mean(0)).square().sum(0)
    return float(student_t.ppf((1 + CONFIDENCE_LEVEL) / 2, n_groups - 1)) * variance.sqrt()
