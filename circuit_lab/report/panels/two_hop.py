"""The figures of a two-hop diagnosis, in reading order."""

from collections.abc import Iterator

import pandas as pd
import plotly.graph_objects as go

from circuit_lab.measures import AttentionPatterns, BridgeGeometry, LocatedSites, Site
from circuit_lab.report.figures.components import attention_figure
from circuit_lab.report.figures.diagnosis import bridge_lens_figure, outcomes_figure, site_rates_figure, stage_in_words
from circuit_lab.report.figures.edges import path_patching_figure
from circuit_lab.report.figures.geometry import geometry_figure
from circuit_lab.report.figures.patching import activation_patching_figure
from circuit_lab.report.figures.site_effects import site_effects_figure
from circuit_lab.verdict import Diagnosis
from circuit_lab.verdict.exhibits import TwoHopExhibits

_LENS_SPLITS = ("test_id", "test_ood")
_METRIC = "logit_diff"


def two_hop_panels(diagnosis: Diagnosis, exhibits: TwoHopExhibits | None) -> dict[str, dict[str, go.Figure]]:
    """All figures of a two-hop diagnosis.

    Args:
        diagnosis: The diagnosis.
        exhibits: What was measured for the report; None for a diagnosis read from JSON.

    Returns:
        Group title -> name -> figure, in reading order; no group is empty. Without exhibits the outcomes alone.
    """
    groups = {"Outcomes": {"outcomes": _outcomes(diagnosis)}}
    if exhibits is not None:
        groups |= {
            "Transplants": dict(_transplants(diagnosis, exhibits)),
            "Lens": dict(_lens(diagnosis)),
            "Patching": dict(_patching(exhibits)),
            "Attention": {} if exhibits.heads is None else {"attention": _attention(exhibits.heads)},
            "Geometry": {} if exhibits.geometry is None else {"geometry": _geometry(exhibits.geometry)},
        }
    return {title: figures for title, figures in groups.items() if figures}


Named = Iterator[tuple[str, go.Figure]]

_BELOW = {"orientation": "h", "x": 0, "yanchor": "top"}
"""A legend that leaves the figure the whole width of a small page; its `y` must clear the axis."""


def _outcomes(diagnosis: Diagnosis) -> go.Figure:
    figure = outcomes_figure(diagnosis).update_xaxes(title_standoff=4)
    return figure.update_layout(height=480, legend=_BELOW | {"y": -0.25, "traceorder": "normal"})


def _transplants(diagnosis: Diagnosis, exhibits: TwoHopExhibits) -> Named:
    effects = pd.concat([exhibits.site_effects, _at_joint_sites(diagnosis, exhibits)], ignore_index=True)
    for split in dict.fromkeys(effects["split"]):
        yield f"site-effects-{_kebab(split)}", site_effects_figure(effects, split=split)
    located = diagnosis.measurements.located
    if located.candidates:  # a net of one layer may have none
        yield "site-rates", _site_rates(located)


def _site_rates(located: LocatedSites) -> go.Figure:
    """The figure with short names of outputs patched together; their full names stay on hover."""
    stages = list(dict.fromkeys(stage_in_words(candidate.site) for candidate in located.candidates))
    parts = [stage.split(" & ") for stage in stages]
    short = [part[0] if len(part) == 1 else f"{len(part)} outputs" for part in parts]
    return site_rates_figure(located).update_yaxes(tickvals=stages, ticktext=short)


def _at_joint_sites(diagnosis: Diagnosis, exhibits: TwoHopExhibits) -> pd.DataFrame:
    """Rows like those of `site_effects` for located sites that are none of its own, from the evidence."""
    measured, single = diagnosis.measurements, exhibits.site_effects
    if not measured.located.found:
        return single.iloc[:0]
    names, rows = exhibits.position_names, []
    for site in measured.located.sites:
        if isinstance(site, Site) and len(site.positions) == 1 and not site.held:
            continue
        for split, tests in measured.tests.items():
            for test in ("hop1", "hop2", "interchange"):
                number = diagnosis.number(test, split, site.label(names))
                if number.value is not None:
                    rows.append(
                        {
                            "split": split,
                            "test": test,
                            "stage": stage_in_words(site),
                            "position": "+".join(names[position] for position in site.positions),
                            "located": True,
                            "rate": number.value,
                            "low": number.low,
                            "high": number.high,
                            "n": number.n,
                            "n_transplants": int(getattr(tests, test).exists.sum()),
                            "control": number.control,
                        }
                    )
    return pd.DataFrame(rows, columns=list(single.columns))


def _lens(diagnosis: Diagnosis) -> Named:
    for split, lens in diagnosis.measurements.lens.items():
        if split in _LENS_SPLITS:
            figure = bridge_lens_figure(lens, split=split)
            yield f"bridge-lens-{_kebab(split)}", figure.update_annotations(font_size=11)


def _patching(exhibits: TwoHopExhibits) -> Named:
    for change, result in exhibits.patching.items():
        # Where the two runs do not differ there is no share of their difference.
        show = "mean" if result.recovered(_METRIC).mean.isnan().all() else "recovered"
        yield f"patching-{_kebab(change)}", activation_patching_figure(result, metric=_METRIC, show=show)
    if exhibits.edges is not None:
        for position in exhibits.edges.position_names:
            figure = path_patching_figure(exhibits.edges, metric=_METRIC, position=position)
            yield f"edges-{_kebab(position)}", _title_and(figure, f", at {position}")


def _attention(heads: AttentionPatterns) -> go.Figure:
    """The figure with short names, for many heads stand side by side."""
    figure = attention_figure(heads, split="test_id")
    figure.for_each_annotation(lambda name: name.update(text=name.text.replace("layer ", "").replace(" head ", ".")))
    figure.update_xaxes(title=None)
    figure.update_xaxes(title="attended (source)", row=heads.top_share.shape[0], col=1)
    return _title_and(figure, "<br>(layer.head; destinations down, sources across)")


def _geometry(geometry: BridgeGeometry) -> go.Figure:
    """The figure with its legend below and short names of stages, for its panels are narrow."""
    figure = geometry_figure(geometry)
    numbered = all(stage.startswith("resid_post ") for stage in geometry.stages[1:])
    figure.update_layout(height=680, legend=_BELOW | {"y": -0.25 if numbered else -0.45})
    short = ["e" if stage == "embed" else stage.removeprefix("resid_post ") for stage in geometry.stages]
    figure.update_xaxes(tickvals=list(geometry.stages), ticktext=short, tickangle=0 if numbered else -90, title=None)
    title = "stage (e: embed, k: resid_post k)" if numbered else "stage (e: embed)"
    figure.update_xaxes(title=title, col=(len(geometry.position_names) + 1) // 2)
    return figure


def _title_and(figure: go.Figure, more: str) -> go.Figure:
    return figure.update_layout(title_text=f"{figure['layout']['title']['text']}{more}")


def _kebab(name: str) -> str:
    return name.replace("_", "-")
