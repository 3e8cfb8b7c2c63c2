"""Hook-based analyses: (net, queries) -> a frozen result with `.frame()`. No files, no plots."""

from circuit_lab.measures.bridge_lens import BRIDGE_FOUND_CAVEAT, BridgeRecovery, bridge_recovery
from circuit_lab.measures.intervals import CONFIDENCE_LEVEL, Interval, proportion_interval
from circuit_lab.measures.locate import MIN_RATE, LocatedSites, SiteRate, locate_sites
from circuit_lab.measures.partners import PartnerPool, Partners
from circuit_lab.measures.sites import (
    Site,
    inner_stages,
    known_good,
    position_sets,
    predicted_answers,
    residual_states,
)
from circuit_lab.measures.transplants import (
    MIN_PARTNERS,
    CausalTest,
    CausalTests,
    causal_tests,
    patched_answers,
)

__all__ = [
    "BRIDGE_FOUND_CAVEAT",
    "CONFIDENCE_LEVEL",
    "MIN_PARTNERS",
    "MIN_RATE",
    "BridgeRecovery",
    "CausalTest",
    "CausalTests",
    "Interval",
    "LocatedSites",
    "PartnerPool",
    "Partners",
    "Site",
    "SiteRate",
    "bridge_recovery",
    "causal_tests",
    "inner_stages",
    "known_good",
    "locate_sites",
    "patched_answers",
    "position_sets",
    "predicted_answers",
    "proportion_interval",
    "residual_states",
]
