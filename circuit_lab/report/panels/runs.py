"""Figures of a run's section."""

import plotly.graph_objects as go

from circuit_lab.report.figures.runs import run_timeline_figure
from circuit_lab.verdict.runs import RunDiagnosis


def run_panels(run_diagnosis: RunDiagnosis) -> dict[str, dict[str, go.Figure]]:
    """All figures of a run.

    Args:
        run_diagnosis: The diagnosis of the run, made just now or read from JSON.

    Returns:
        Title of each group -> name of each figure -> figure.
    """
    return {"Timeline": {"timeline": run_timeline_figure(run_diagnosis)}}
