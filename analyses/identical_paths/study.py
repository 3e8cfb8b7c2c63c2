"""Before and after grokking: do nets answer in-distribution queries by one path?

    circuit-lab reproduce identical_paths --scale small --seeds 3

Compared are a net trained without augmentation, when it has just learnt to compose (`early`: unseen ID queries right,
OOD ones wrong) and at its end (`late`), and a net that composes OOD facts (`grokked`). Beside them stand the grokked
net's twin of other initial weights (how alike are two nets that do the same?), a standard transformer (another
architecture), and the grokked net's own initial weights (what is alike before any training). All read the same ID
queries of the same facts.
"""

from collections.abc import Callable, Mapping
from math import isnan, nan
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from circuit_lab import build_net, load_checkpoint
from circuit_lab.measures import (
    CrossInterchange,
    LocatedSites,
    QueryPairs,
    activation_patching,
    cross_interchange,
    grid_similarity,
    inner_stages,
    known_good,
    locate_sites,
    pair_queries,
    proportion_interval,
    site_overlap,
)
from circuit_lab.measures.patching.query_pairs import DIRECTIONS
from circuit_lab.nets import HookedSharedTransformer, shared_transformer
from circuit_lab.report.figures.style import GREY, LAYOUT, LINE_COLOURS, PALE
from circuit_lab.studies import Bound, Claim, Lab, Study, StudyRun, find_study
from circuit_lab.studies.study import COLUMNS
from circuit_lab.studies.timeline import last_value
from circuit_lab.tasks import Queries, TwoHopTask
from circuit_lab.tasks.queries import concatenate
from circuit_lab.training import read_metrics
from circuit_lab.verdict.comparison.path import PATH_THRESHOLDS
from circuit_lab.verdict.thresholds import THRESHOLDS

EARLY, LATE, GROKKED, TWIN, STANDARD, UNTRAINED = (
    "early, before OOD",
    "late, natural",
    "grokked",
    "grokked, other start",
    "standard",
    "untrained",
)
COMPARED = (*((name, GROKKED) for name in (EARLY, LATE, TWIN, STANDARD, UNTRAINED)), (EARLY, LATE))
RETURNED = ((GROKKED, EARLY), (GROKKED, LATE))
"""Pairs whose states are exchanged in the other direction as well."""
LEARNT_ID = 0.95
"""Accuracy on test_id from which the early checkpoint is taken."""
N_QUERIES = 200
N_LOCATING = 256
N_PAIRS = 500
CHANGES = ("h", "r1")
"""A change of r2 is left out: in a causal net all that it changes stands at r2's position, in any net."""
KINDS = ("resid", "attn_out", "mlp_out")
GRIDS, JACCARD, SITES, INTERCHANGE, ACCURACY, THROUGH_BRIDGE = (
    "correlation of patching grids",
    "overlap of located sites (Jaccard)",
    "rank correlation of sites",
    "interchanges followed",
    "accuracy",
    "right answers through the bridge",
)
MAPPED, OWN = "mapped A", "B itself"
ID = "ID"
"""The split of the comparisons: queries of test_id and train_inferred."""


def natural(seed: int) -> StudyRun:
    """The run without augmentation."""
    return run_of("universal/natural", seed)


def both_full(seed: int, net: str = "universal") -> StudyRun:
    """A run with both hops of OOD facts augmented."""
    return run_of(f"{net}/both_full", seed)


def run_of(name: str, seed: int) -> StudyRun:
    """A run of the study `no_sharing`."""
    return next(run for run in find_study("no_sharing").runs(seed) if run.name == name)


def twin(seed: int) -> StudyRun:
    """The same as `both_full` from other initial weights, with other batches."""
    settings = {"task.regime": "both_full", "net.init_seed": 1000 + seed, "training.seed": 1000 + seed}
    return StudyRun("universal", "universal/both_full_other_start", seed, settings, steps=0.6)


def runs(seed: int) -> list[StudyRun]:
    """Two runs that are compared, and two for comparison."""
    return [natural(seed), both_full(seed), twin(seed), both_full(seed, "standard")]


def early_checkpoint(lab: Lab, run: StudyRun) -> Path | None:
    """The first checkpoint that answers unseen ID queries while OOD ones fail; None if there is none."""
    at_step = {record["step"]: record for record in read_metrics(lab.folder(run))}
    for path in lab.checkpoints(run):
        record = at_step.get(lab.step(path), {})
        if record.get("accuracy/test_id", 0.0) >= LEARNT_ID:
            return path if record["accuracy/test_ood"] < THRESHOLDS.unsolved else None
    return None


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """Accuracies and mediation of each net, and three comparisons of each pair of nets."""
    paths = {
        EARLY: early_checkpoint(lab, natural(seed)),
        LATE: lab.last(natural(seed)),
        GROKKED: lab.last(both_full(seed)),
        TWIN: lab.last(twin(seed)),
        STANDARD: lab.last(both_full(seed, "standard")),
    }
    rows, nets = [], {}
    for name, path in paths.items():
        if path is not None:
            checkpoint = load_checkpoint(path)
            nets[name] = shared_transformer(checkpoint.net, place=str(path)).eval()
            rows += own_rows(lab, name, path)
    task = load_checkpoint(lab.last(natural(seed))).task
    assert isinstance(task, TwoHopTask), "every run of the study has a two-hop task"
    nets[UNTRAINED] = shared_transformer(build_net(nets[GROKKED].cfg), place=UNTRAINED).eval()
    steps = {name: lab.step(path) for name, path in paths.items() if path is not None} | {UNTRAINED: 0}
    rows += comparison_rows(lab, nets, steps, task, seed)
    table = pd.DataFrame(rows).reindex(columns=[*COLUMNS, "stage", "state", "control_low", "control_high"])
    numbers = dict.fromkeys(("value", "low", "high", "control_low", "control_high"), float)
    return table.fillna(dict.fromkeys(("split", "stage", "state"), "")).fillna({"n": 0}).astype({**numbers, "n": int})


Row = dict[str, object]


def own_rows(lab: Lab, name: str, path: Path) -> list[Row]:
    """Accuracy and mediation of one checkpoint."""
    return [
        {"condition": name, "step": lab.step(path), "split": row.split, "quantity": row.name}
        | {"value": row.value, "n": row.n, "low": row.low, "high": row.high}
        for row in lab.diagnose(path).evidence
        if row.name in (ACCURACY, THROUGH_BRIDGE) and row.split in ("test_id", "test_ood")
    ]


def comparison_rows(
    lab: Lab, nets: Mapping[str, HookedSharedTransformer], steps: Mapping[str, int], task: TwoHopTask, seed: int
) -> list[Row]:
    """The comparisons, on ID queries that every trained net answers right; none where there are too few."""
    asked, pool = task.splits["test_id"], task.splits["train_inferred"]
    for name, net in nets.items():
        if name != UNTRAINED:
            asked, pool = known_good(net, asked), known_good(net, pool)
    generator = lab.generator(seed, "identical_paths")
    queries = concatenate([asked, pool.sample(max(0, N_QUERIES - len(asked)), generator=generator)])
    if len(pool) == 0:
        return []
    try:
        pairs = changed_pairs(queries, pool, generator)
        grids = {name: patching_grid(net, pairs) for name, net in nets.items()}
        sample = pool.sample(N_LOCATING, generator=generator)
        located = {
            name: locate_sites(net, sample, pool, generator=lab.generator(seed, "locating"))
            for name, net in nets.items()
        }
    except ValueError:  # no two queries that all of them answer right differ in one token
        return []
    rows: list[Row] = []
    for a, b in COMPARED:
        if a in nets:
            common: Row = {"condition": f"{a} | {b}", "step": steps[a], "split": ID}
            rows += [common | row for row in grid_rows(grids[a], grids[b], seed)]
            rows += [common | row for row in site_rows(located[a], located[b], seed)]
    for lender, receiver in (*COMPARED, *RETURNED):
        if lender in nets and receiver in nets:
            into: Row = {"condition": f"{lender} into {receiver}", "step": steps[lender], "split": ID}
            rows += [into | row for row in interchange_rows(nets[lender], nets[receiver], pool, seed)]
    return rows


def changed_pairs(queries: Queries, pool: Queries, generator: torch.Generator) -> dict[str, QueryPairs]:
    """For each change, the same queries paired with others; those without a partner for some change are left out."""
    kept = queries
    for change in CHANGES:
        kept = pair_queries(kept, pool, change=change, generator=generator).clean
    return {change: pair_queries(kept, pool, change=change, generator=generator) for change in CHANGES}


def patching_grid(net: HookedSharedTransformer, pairs: Mapping[str, QueryPairs]) -> Tensor:
    """Recovered share of the logit difference, [cell, query], over every kind, change and direction.

    Cells that say nothing of a net are left out: positions before the change and last outputs before the answer's
    position, where a causal net has no effect, and the embedding and the last state, whose effect is whole or none.
    """
    cells = []
    for change, of_change in pairs.items():
        changed = of_change.clean.position_names.index(change)
        for direction in DIRECTIONS:
            for kind in KINDS:
                result = activation_patching(net, of_change, kind=kind, direction=direction)
                start, end = result.receiver[0], result.source[0]
                effect = (result.metric("logit_diff") - start) / (end - start).mean()
                inner = effect[1:-1] if kind == "resid" else effect[:-1]
                cells.append(inner[:, changed:].flatten(0, 1))
                if kind != "resid":
                    cells.append(effect[-1:, -1])
    return torch.cat(cells)


def grid_rows(a: Tensor, b: Tensor, seed: int) -> list[Row]:
    """Correlation of two grids over cells, with that of permuted cells."""
    found = grid_similarity(a, b, seed=seed)
    pearson, n = found.correlations, found.n_a
    values = {name: float(getattr(pearson, name)[0]) for name in ("value", "low", "high")}
    permuted = {"control_low": float(pearson.permuted_low[0]), "control_high": float(pearson.permuted_high[0])}
    return [{"quantity": GRIDS, "n": n} | values | permuted]


def site_rows(a: LocatedSites, b: LocatedSites, seed: int) -> list[Row]:
    """Overlap of the located sites, and rank correlation of all candidates' rates."""
    try:
        found = site_overlap(a, b, seed=seed)
    except ValueError:  # fewer than three candidates in common
        return []
    rank, n = found.correlations, min(found.n_a, found.n_b)
    values = {name: float(getattr(rank, name)[1]) for name in ("value", "low", "high")}
    permuted = {"control_low": float(rank.permuted_low[1]), "control_high": float(rank.permuted_high[1])}
    jaccard = {"value": found.jaccard, "control_high": found.chance_jaccard}
    return [{"quantity": JACCARD, "n": n} | jaccard, {"quantity": SITES, "n": n} | values | permuted]


def interchange_rows(
    lender: HookedSharedTransformer, receiver: HookedSharedTransformer, pool: Queries, seed: int
) -> list[Row]:
    """Of the interchanges that the receiver's own state brings about, those that the lent state does, by stage."""
    rows: list[Row] = []
    for stage in inner_stages(receiver):
        at = {"stage_a": stage, "stage_b": stage, "position": "r1"}
        try:
            found = cross_interchange(
                lender, receiver, pool, pool, **at, n_pairs=N_PAIRS, held_out_share=0.2, seed=seed
            )
        except ValueError:  # no pair of queries
            continue
        rows += [{"stage": stage, "quantity": INTERCHANGE} | row for row in followed(found)]
    return rows


def followed(found: CrossInterchange) -> list[Row]:
    """A row per kind of state lent: share of the pairs that follow the receiver's own state; of that, of all pairs."""
    own = found.hits[found.states.index(OWN)]
    rows: list[Row] = []
    for state, hits in zip(found.states, found.hits, strict=True):
        n_true, n = (int(own.sum()), len(own)) if state == OWN else (int((hits & own).sum()), int(own.sum()))
        interval = proportion_interval(n_true, n)
        share = n_true / n if n else nan
        rows.append({"state": state, "value": share, "n": n, "low": interval.low, "high": interval.high})
    return rows


def follows(rows: pd.DataFrame, lender: str, receiver: str) -> float:
    """The share that follows the lender's mapped state, at the stage where the receiver's own is followed most."""
    of_pair = rows[(rows["condition"] == f"{lender} into {receiver}") & (rows["quantity"] == INTERCHANGE)]
    table = of_pair.pivot_table(index="stage", columns="state", values="value")
    if table.empty or table[OWN].max() < PATH_THRESHOLDS.follows_own:
        return nan
    return float(table[MAPPED][table[OWN].idxmax()])


def exchanged(name: str) -> Callable[[pd.DataFrame], float]:
    """Reads the lower of both directions' shares, between a net and the grokked one."""

    def read(rows: pd.DataFrame) -> float:
        shares = [follows(rows, name, GROKKED), follows(rows, GROKKED, name)]
        return nan if any(isnan(share) for share in shares) else min(shares)

    return read


def grids_against_twin(name: str) -> Callable[[pd.DataFrame], float]:
    """Reads by how much a net's grid correlates better with the grokked net's than that of its twin does."""
    return lambda rows: (
        last_value(rows, f"{name} | {GROKKED}", GRIDS, ID) - last_value(rows, f"{TWIN} | {GROKKED}", GRIDS, ID)
    )


def _claims() -> tuple[Claim, ...]:
    """What identical paths means, by each of the comparisons."""
    published = (
        "The inference paths of non-grokked and grokked models for in-distribution queries are identical "
        "([He] abstract, finding i)"
    )
    ways = {"early": (EARLY, "early net"), "late": (LATE, "late natural net")}
    claims = [
        Claim(
            name="bridge_before_ood",
            published="Grokking integrates facts into a path that is there already ([He] abstract, finding i)",
            quantity="early net: share of the right test_id answers that go through the bridge, in [0, 1]",
            holds_if=Bound(low=THRESHOLDS.through_bridge),
            value=lambda rows: last_value(rows, EARLY, THROUGH_BRIDGE, "test_id"),
        )
    ]
    for short, (name, words) in ways.items():
        claims += [
            Claim(
                name=f"same_sites_{short}",
                published=published,
                quantity=f"overlap of the sites at which the {words} and the grokked net hand on the bridge: Jaccard "
                "index in [0, 1]",
                holds_if=Bound(low=0.5),
                value=lambda rows, name=name: last_value(rows, f"{name} | {GROKKED}", JACCARD, ID),
                chance=0.1,
            ),
            Claim(
                name=f"same_cells_{short}",
                published=published,
                quantity=f"correlation of the patching grids of the {words} and the grokked net, less that of two "
                "grokked nets of other initial weights; in [-2, 2]",
                holds_if=Bound(low=-0.1),
                value=grids_against_twin(name),
            ),
            Claim(
                name=f"states_exchange_{short}",
                published=published,
                quantity=f"share of the interchanges brought about by a net's own bridge states that the other's do "
                f"through a fitted map, {words} and grokked net, the lower of both directions; in [0, 1]",
                holds_if=Bound(low=PATH_THRESHOLDS.lends),
                value=exchanged(name),
                chance=0.1,
            ),
        ]
    return tuple(claims)


def similarity(rows: pd.DataFrame) -> go.Figure:
    """Points: correlation of grids, of sites, and their overlap, for each pair of nets and seed, with chance."""
    panels = (GRIDS, SITES, JACCARD)
    conditions = [f"{a} | {b}" for a, b in COMPARED]
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=panels, shared_yaxes=True, horizontal_spacing=0.05)
    for col, quantity in enumerate(panels, start=1):
        place = {"row": 1, "col": col}
        chosen = rows[(rows["quantity"] == quantity) & rows["condition"].isin(conditions)]
        low = chosen["control_low"].fillna(0.0)
        chance = {"base": low, "marker_color": PALE, "name": "chance: permuted cells, random sets"}
        chance |= {"orientation": "h", "legendgroup": "chance", "showlegend": col == 1}
        figure.add_bar(x=chosen["control_high"] - low, y=chosen["condition"], **chance, **place)
        for colour, (seed, of_seed) in zip(LINE_COLOURS * 9, chosen.groupby("seed"), strict=False):
            value = of_seed["value"]
            figure.add_scatter(
                x=value,
                y=of_seed["condition"],
                error_x={"array": of_seed["high"] - value, "arrayminus": value - of_seed["low"]},
                mode="markers",
                marker={"color": colour, "size": 9},
                customdata=of_seed["n"],
                hovertemplate="%{x:.3f}, n = %{customdata}<extra>seed " + str(seed) + "</extra>",
                **{"name": f"seed {seed}", "legendgroup": f"seed {seed}", "showlegend": col == 1, **place},
            )
        figure.update_xaxes(title="correlation" if quantity != JACCARD else "share of sites", **place)
    figure.update_yaxes(categoryorder="array", categoryarray=conditions[::-1])
    title = "Same cells, same sites? 95 % intervals over queries, of ID queries that all trained nets answer right"
    figure.update_layout(title=title, barmode="overlay", height=420, width=1200, **LAYOUT)
    return figure


def interchanges(rows: pd.DataFrame) -> go.Figure:
    """Bars: of the interchanges that a net's own state brings about, the share that each lent state does."""
    chosen = rows[(rows["quantity"] == INTERCHANGE) & (rows["state"] != OWN)]
    own = rows[(rows["quantity"] == INTERCHANGE) & (rows["state"] == OWN)]
    best = own.loc[own.groupby(["condition", "seed"])["value"].idxmax(), ["condition", "seed", "stage"]]
    chosen = chosen.merge(best, on=["condition", "seed", "stage"])
    figure = go.Figure()
    for colour, (state, of_state) in zip(LINE_COLOURS, chosen.groupby("state", sort=False), strict=False):
        mean = of_state.groupby("condition", sort=False)["value"].mean()
        figure.add_bar(x=mean.index, y=mean, name=str(state), marker_color=colour, offsetgroup=str(state))
        each = {"mode": "markers", "marker": {"color": "white", "size": 6, "line": {"color": "black", "width": 1.2}}}
        each |= {
            "name": f"{state}, each seed",
            "showlegend": False,
            "offsetgroup": str(state),
            "customdata": of_state[["seed", "n", "stage"]],
        }
        hover = "%{y:.3f}; seed %{customdata[0]}, n = %{customdata[1]}, %{customdata[2]}<extra></extra>"
        figure.add_scatter(x=of_state["condition"], y=of_state["value"], hovertemplate=hover, **each)
    figure.add_hline(y=PATH_THRESHOLDS.lends, line_dash="dot", line_color=GREY)
    figure.update_yaxes(title="share of the receiver's own interchanges", range=[0, 1.03])
    title = "Bridge states of one net in another, at the stage where the receiver follows its own most<br>"
    title += (
        f"mean of {rows['seed'].nunique()} seeds (bars) and each seed (points); dotted: counts as doing the same work"
    )
    figure.update_layout(title=title, barmode="group", scattermode="group", height=560, width=1200, **LAYOUT)
    return figure


STUDY = Study(
    name="identical_paths",
    title="In-distribution queries before and after grokking: one path?",
    claims=_claims(),
    runs=runs,
    measure=measure,
    figures={"similarity": similarity, "interchanges": interchanges},
)
