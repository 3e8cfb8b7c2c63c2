"""What a report shows beyond the evidence, measured anew from the net on samples. Nothing here decides a verdict."""

from circuit_lab.verdict.exhibits.gather import Exhibits, gather_exhibits
from circuit_lab.verdict.exhibits.modular import ModularExhibits
from circuit_lab.verdict.exhibits.two_hop import TwoHopExhibits

__all__ = ["Exhibits", "ModularExhibits", "TwoHopExhibits", "gather_exhibits"]
