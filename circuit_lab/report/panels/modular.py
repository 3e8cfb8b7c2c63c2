"""Figures of a modular checkpoint's section."""

import plotly.graph_objects as go

from circuit_lab.measures import Interval
from circuit_lab.report.figures.diagnosis import frequency_spectrum_figure, logit_parts_figure, outcomes_figure
from circuit_lab.report.figures.modular import (
    component_spectra_figure,
    efficiency_figure,
    key_frequency_figure,
    logit_maps_figure,
    shown_attention_figure,
    trig_share_figure,
    weight_norms_figure,
)
from circuit_lab.report.figures.readings import logit_lens_figure
from circuit_lab.verdict import Diagnosis
from circuit_lab.verdict.exhibits import ModularExhibits
from circuit_lab.verdict.modular.diagnose import ModularMeasurements
from circuit_lab.verdict.modular.evidence import EXPLAINED_ROW

_LEGEND_ABOVE = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0}
"""Beside the plot it would leave a narrow page no room."""


def modular_panels(diagnosis: Diagnosis, exhibits: ModularExhibits | None) -> dict[str, dict[str, go.Figure]]:
    """All figures of a modular checkpoint.

    Args:
        diagnosis: The diagnosis.
        exhibits: What was measured for the report; None for a diagnosis read from JSON.

    Returns:
        Title of each group -> name of each figure -> figure.
    """
    outcomes = {"Outcomes": {"outcomes": outcomes_figure(diagnosis)}}
    if exhibits is None:
        return outcomes
    measured: ModularMeasurements = diagnosis.measurements
    return outcomes | {
        "Frequencies": _frequencies(diagnosis, measured, exhibits),
        "Logits": _logits(diagnosis, measured, exhibits),
        "Lens and attention": {
            "lens": logit_lens_figure(exhibits.lens, split="the pairs shown", target="answer").update_traces(
                showscale=False  # its numbers stand in the cells
            ),
            **_attention(exhibits),
        },
        "Norms and efficiency": {
            "norms": weight_norms_figure(exhibits.norms),
            "efficiency": efficiency_figure(
                exhibits.efficiency, pairs="all pairs" if exhibits.in_training is None else "the training pairs"
            ),
        },
    }


def _attention(exhibits: ModularExhibits) -> dict[str, go.Figure]:
    if exhibits.attention is None:
        return {}
    figure = shown_attention_figure(
        exhibits.attention, position_names=exhibits.attended, layer_names=exhibits.layer_names
    )
    return {"attention": figure}


def _frequencies(
    diagnosis: Diagnosis, measured: ModularMeasurements, exhibits: ModularExhibits
) -> dict[str, go.Figure]:
    chance = {split: diagnosis.number("accuracy", split).control for split in measured.ablations}
    return {
        "component_spectra": component_spectra_figure(exhibits.spectra, group=measured.decomposition.group),
        "frequency_spectrum": frequency_spectrum_figure(measured.decomposition).update_layout(legend=_LEGEND_ABOVE),
        "key_frequencies": key_frequency_figure(
            measured.ablations, chance={split: level for split, level in chance.items() if level is not None}
        ),
    }


def _logits(diagnosis: Diagnosis, measured: ModularMeasurements, exhibits: ModularExhibits) -> dict[str, go.Figure]:
    decomposition = measured.decomposition
    explained = diagnosis.number(EXPLAINED_ROW, decomposition.fitted_on)
    assert explained.low is not None and explained.high is not None, "a number that decides has an interval"
    return {
        "trig_share": trig_share_figure(decomposition, interval=Interval(explained.low, explained.high)),
        "logit_parts": logit_parts_figure(decomposition).update_layout(legend=_LEGEND_ABOVE),
        "logit_maps": logit_maps_figure(exhibits.logit_maps, in_training=exhibits.in_training, output=exhibits.output),
    }
