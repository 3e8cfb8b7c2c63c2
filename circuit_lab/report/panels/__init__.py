"""The panels of a report: which figures stand in a section, under which titles, in reading order."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from circuit_lab.verdict import Diagnosis

if TYPE_CHECKING:  # the exhibits' measures take longer to import than a small diagnosis takes
    from circuit_lab.verdict.exhibits import Exhibits

_FAMILIES = {"two_hop": ("two_hop", "two_hop_panels"), "modular": ("modular", "modular_panels")}
"""Module and function of each `Diagnosis.family`; loaded when first used."""


def panel_figures(diagnosis: Diagnosis, exhibits: "Exhibits | None") -> dict[str, dict[str, go.Figure]]:
    """All figures of a checkpoint's section.

    Args:
        diagnosis: The diagnosis.
        exhibits: What `gather_exhibits` measured for it; None for a diagnosis read from JSON, which has outcomes only.

    Returns:
        Title of each group -> name of each figure -> figure, in reading order. Names are unique in a section.
    """
    module, name = _FAMILIES[diagnosis.family]
    panels: Callable[..., dict[str, dict[str, go.Figure]]] = getattr(import_module(f"{__name__}.{module}"), name)
    return panels(diagnosis, exhibits)
