"""Figures of a diagnosis: each takes a finished result and draws it."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.measures import MIN_RATE, BridgeRecovery, FrequencyAblation, LocatedSites, Site, TrigDecomposition
from circuit_lab.measures.sites import AnySite
from circuit_lab.report.figures.style import BLUE, GREEN, GREY, LAYOUT, ORANGE, PALE, PINK, SKY, heat_map, wrapped
from circuit_lab.verdict import Diagnosis

OUTCOME_COLOURS = {
    "circuit": GREEN,
    "shortcut": ORANGE,
    "second_hop_failure": BLUE,
    "first_hop_failure": SKY,
    "composition_failure": PINK,
    "no_circuit": GREY,
    "untestable": PALE,
    "wrong": GREY,
}


def outcomes_figure(diagnosis: Diagnosis) -> go.Figure:
    """Stacked bars: what became of each query, by split, as a share of the split."""
    labels = [f"{s.split}<br>n = {s.n}" for s in diagnosis.outcomes]
    figure = go.Figure(
        [
            go.Bar(
                name=outcome.replace("_", " "),
                y=labels,
                x=[s.shares[outcome] for s in diagnosis.outcomes],
                orientation="h",
                marker_color=colour,
                hovertemplate="%{y}: %{x:.3f} of the queries<extra>" + outcome + "</extra>",
            )
            for outcome, colour in OUTCOME_COLOURS.items()
            if outcome in diagnosis.outcomes[0].shares
        ]
    )
    figure.update_layout(barmode="stack", title="What became of each query", height=340, **LAYOUT)
    figure.update_xaxes(title="share of the split's queries", range=[0, 1])
    figure.update_yaxes(autorange="reversed")
    return figure


def site_rates_figure(located: LocatedSites) -> go.Figure:
    """Heat map: where training queries hand on their bridge (hop-1 rate by stage and position set)."""
    frame = located.frame()
    frame["deciding"] = frame[["rate", "mixed_rate"]].min(axis=1)
    frame["stage"] = [stage_in_words(candidate.site) for candidate in located.candidates]
    grid = frame.pivot(index="stage", columns="positions", values="deciding")
    grid = grid.loc[list(dict.fromkeys(frame["stage"])), list(dict.fromkeys(frame["positions"]))]
    n = max(c.n for c in located.candidates)
    figure = heat_map(grid.to_numpy(), list(grid.columns), list(grid.index))
    figure.update_layout(
        title=wrapped(
            f"Hop-1 transplants on training queries: where the bridge is handed on (n = {n}, threshold {MIN_RATE:.2f})"
        ),
        height=160 + 50 * len(grid),
        **LAYOUT,
    )
    figure.update_xaxes(title="positions replaced together")
    figure.update_yaxes(title="stage")
    return figure


def stage_in_words(site: AnySite) -> str:
    """The stage of a site, and "on" where its positions are replaced at every later one, too.

    >>> from circuit_lab.measures import Site
    >>> stage_in_words(Site("H0.L1", (1,))), stage_in_words(Site("H0.L1", (1,), held=True))
    ('H0.L1', 'H0.L1 on')
    """
    return f"{site.stage} on" if isinstance(site, Site) and site.held else site.stage


def bridge_lens_figure(lens: BridgeRecovery, *, split: str) -> go.Figure:
    """Two heat maps: how often the logit lens has the bridge, and the answer, on top, by stage and position."""
    figure = make_subplots(cols=2, subplot_titles=("bridge on top", "answer on top"), shared_yaxes=True)
    for column, values in enumerate((lens.bridge_top1, lens.answer_top1), start=1):
        for trace in heat_map(values.numpy(), list(lens.position_names), list(lens.stages)).data:
            figure.add_trace(trace, row=1, col=column)
    figure.update_layout(
        title=wrapped(
            f"Logit lens on {split}: share of queries (n = {lens.n}, chance {lens.chance:.3f}); corroborates only"
        ),
        height=160 + 40 * len(lens.stages),
        **LAYOUT,
    )
    figure.update_xaxes(title="position")
    return figure


def frequency_spectrum_figure(decomposition: TrigDecomposition) -> go.Figure:
    """Bars: share of each frequency in the generalising part, beside what a flat table of answers would have."""
    frame = decomposition.frequency_frame()
    figure = go.Figure(
        [
            go.Bar(
                name="this net",
                x=frame["frequency"],
                y=frame["energy_share"],
                marker_color=OUTCOME_COLOURS["circuit"],
                hovertemplate="frequency %{x}: %{y:.3f}<extra></extra>",
            ),
            go.Scatter(
                name="a flat table of answers",
                x=frame["frequency"],
                y=frame["table_energy_share"],
                mode="lines",
                line={"color": OUTCOME_COLOURS["shortcut"], "dash": "dash"},
            ),
        ]
    )
    parts = decomposition.splits[decomposition.fitted_on]
    figure.update_layout(
        title=wrapped(
            f"Frequencies of the generalising part, fitted on {decomposition.fitted_on} (n = {parts.n}); "
            f"it explains {parts.energy_share:.2f} of those logits"
        ),
        height=320,
        **LAYOUT,
    )
    figure.update_xaxes(title=f"frequency or irreducible representation of {decomposition.group.name}", type="category")
    figure.update_yaxes(title="share of its energy", rangemode="tozero")
    return figure


def logit_parts_figure(decomposition: TrigDecomposition) -> go.Figure:
    """Bars: centred logit of the right output by split, from the generalising part and from the rest."""
    splits = [name for name in decomposition.splits if name != "all"] or ["all"]
    labels = [f"{name}<br>n = {decomposition.splits[name].n}" for name in splits]
    named = (("generalising", "circuit"), ("remaining", "shortcut"))
    figure = go.Figure(
        [
            go.Bar(
                name=f"{part} part",
                x=labels,
                y=[getattr(decomposition.splits[name], f"correct_logit_{part}") for name in splits],
                marker_color=OUTCOME_COLOURS[colour],
                hovertemplate="%{x}: %{y:.2f} logits<extra>" + part + "</extra>",
            )
            for part, colour in named
        ]
    )
    figure.update_layout(
        barmode="relative",
        title=wrapped(
            f"Where the right output's logit comes from (fitted on {decomposition.fitted_on}, so 0 remains there)"
        ),
        height=320,
        **LAYOUT,
    )
    figure.update_yaxes(title="mean centred logit")
    return figure


def frequency_ablation_figure(ablation: FrequencyAblation, *, split: str, chance: float) -> go.Figure:
    """Bars: accuracy intact, without the key frequencies, with them only, and without random subspaces."""
    frame = ablation.frame()
    labels = [f"{site.site}<br>rank {site.rank} of {site.n_dimensions}" for site in ablation.sites.values()]
    named = {
        "intact": ("intact", GREY),
        "without_key": ("without key frequencies", OUTCOME_COLOURS["circuit"]),
        "with_key_only": ("with key frequencies only", OUTCOME_COLOURS["first_hop_failure"]),
        "without_random": (f"without random subspaces (mean of {ablation.n_random})", OUTCOME_COLOURS["shortcut"]),
    }
    figure = go.Figure(
        [
            go.Bar(name=name, x=labels, y=frame[column], marker_color=colour, hovertemplate="%{x}: %{y:.3f}")
            for column, (name, colour) in named.items()
        ]
    )
    figure.add_hline(y=chance, line_dash="dot", annotation_text=f"chance {chance:.3f}")
    figure.update_layout(
        barmode="group",
        title=wrapped(f"Ablating the key frequencies on {split} (n = {len(ablation.right)})"),
        height=360,
        **LAYOUT,
    )
    figure.update_yaxes(title="accuracy", range=[0, 1])
    return figure
