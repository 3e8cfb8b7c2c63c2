"""The circuit diagram of a report's section: an SVG that shows without scripts, and the data behind it."""

from typing import Any

from markupsafe import Markup

from circuit_lab.report.circuit.layout import cut
from circuit_lab.report.circuit.modular import modular_circuit
from circuit_lab.report.circuit.two_hop import two_hop_circuit
from circuit_lab.report.templating import template
from circuit_lab.verdict import Diagnosis
from circuit_lab.verdict.exhibits import Exhibits, TwoHopExhibits


def circuit_panel(diagnosis: Diagnosis, exhibits: Exhibits | None) -> dict[str, Any] | None:
    """Draw the circuit of a diagnosed net.

    Args:
        diagnosis: A diagnosis.
        exhibits: What was measured for the report; None for a diagnosis read from JSON.

    Returns:
        `svg`: the drawing, safe to put into a page. `data`: for `CircuitLab.mountCircuit`, JSON-able. What else
        `circuit.html` says: `kind`, `summary`, `splits`, `split` and more. None without exhibits.
    """
    if exhibits is None:
        return None
    circuit = (
        two_hop_circuit(diagnosis, exhibits)
        if isinstance(exhibits, TwoHopExhibits)
        else modular_circuit(diagnosis, exhibits)
    )
    drawing = template(f"circuit_{circuit['kind']}.html")
    # The template escapes what it is given.
    return {**circuit, "svg": Markup(drawing.render(circuit=circuit, cut=cut))}
