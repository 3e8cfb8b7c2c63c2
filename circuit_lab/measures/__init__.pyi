from .attribution.attribution_agreement import Agreement, attribution_agreement, edge_agreement, node_agreement
from .attribution.attribution_patching import NodeAttribution, attribution_patching
from .attribution.edge_attribution import EdgeAttribution, edge_attribution_patching
from .attribution.edges import Edge, Reader, Writer, all_edges
from .attribution.path_patching import PathPatching, path_patching
from .hooked_model import HookedModel
from .intervals import CONFIDENCE_LEVEL, Interval, MeanInterval, mean_interval, proportion_interval
from .metrics import METRIC_UNITS, METRICS, Target, target_of
from .modular.efficiency import Crossing, EfficiencyRow, NormAtLogit, crossing, norm_at_logit, rows_frame
from .modular.efficiency_row import PURE_NORM_SHARE, efficiency_row, generalising_norm_share, is_pure_circuit
from .modular.frequency_ablation import (
    ANSWER,
    INPUTS,
    FrequencyAblation,
    SiteAblation,
    frequency_ablation,
    input_elements,
    isotypic_projector,
)
from .modular.norms import (
    GradientAlignment,
    LogitEfficiency,
    WeightNorms,
    gradient_weight_alignment,
    logit_efficiency,
    weight_norms,
)
from .modular.pair_logits import PairLogits, answer_logits, centred_pair_logits, pair_logits
from .modular.plateaus import Plateau, Plateaus, accuracy_plateaus
from .modular.progress_measures import (
    PERIODIC_SHARE,
    KeyFrequencyLosses,
    NeuronFrequencies,
    ProgressMeasures,
    WeightSpectra,
    gini,
    neuron_frequencies,
    progress_measures,
    weight_spectra,
)
from .modular.scaled_norm import scaled_norm
from .modular.toy_model import ToyModelConfig, ToyModelRun, closed_form_ratio, two_circuit_toy_model
from .modular.transition import Transition, accuracy_transition
from .modular.trig_decomposition import (
    KEY_SHARE,
    PartsOnSplit,
    TrigDecomposition,
    concentration,
    decompose,
    fit_characters,
    frequency_energy,
    key_frequency_rows,
    rows_of,
    trig_decomposition,
)
from .patching.ablation import Ablation, Component, ablation, ablation_components
from .patching.activation_patching import ActivationPatching, activation_patching
from .patching.causal_tracing import CausalTracing, StateEffects, causal_tracing
from .patching.patch_sites import PATCH_KINDS
from .patching.query_pairs import QueryPairs, noise_pairs, pair_queries
from .readings.attention import AttentionPatterns, attention_patterns
from .readings.cka import LensSiteCka, lens_site_cka
from .readings.direct_logit_attribution import DirectLogitAttribution, direct_logit_attribution
from .readings.geometry import BridgeGeometry, bridge_geometry
from .readings.learnt_lens import LearntLens, learnt_lens
from .readings.logit_lens import LogitLens, logit_lens, target_tokens
from .readings.probes import Probes, probe
from .sites import (
    AnySite,
    OutputSite,
    Place,
    Site,
    inner_stages,
    known_good,
    position_sets,
    predicted_answers,
    residual_states,
    site_states,
)
from .subspaces.cross_interchange import CrossInterchange, cross_interchange
from .subspaces.das import BridgeDas, DasBudget, bridge_das, fresh_weights
from .subspaces.path_identity import GridSimilarity, PathIdentity, SiteOverlap, grid_similarity, site_overlap
from .two_hop.bridge_lens import BRIDGE_FOUND_CAVEAT, BridgeRecovery, bridge_recovery
from .two_hop.locate import MIN_RATE, LocatedSites, SiteRate, locate_sites
from .two_hop.partner_fitness import partner_fitness
from .two_hop.partners import Fitness, PartnerPool, Partners
from .two_hop.representation_mismatch import PlaceOfEntity, RepresentationMismatch, representation_mismatch
from .two_hop.transplant_lab import patched_answers
from .two_hop.transplants import MIN_PARTNERS, CausalTest, CausalTests, causal_tests

__all__ = [
    "ANSWER",
    "BRIDGE_FOUND_CAVEAT",
    "CONFIDENCE_LEVEL",
    "INPUTS",
    "KEY_SHARE",
    "METRICS",
    "METRIC_UNITS",
    "MIN_PARTNERS",
    "MIN_RATE",
    "PATCH_KINDS",
    "PERIODIC_SHARE",
    "PURE_NORM_SHARE",
    "Ablation",
    "ActivationPatching",
    "Agreement",
    "AnySite",
    "AttentionPatterns",
    "BridgeDas",
    "BridgeGeometry",
    "BridgeRecovery",
    "CausalTest",
    "CausalTests",
    "CausalTracing",
    "Component",
    "CrossInterchange",
    "Crossing",
    "DasBudget",
    "DirectLogitAttribution",
    "Edge",
    "EdgeAttribution",
    "EfficiencyRow",
    "Fitness",
    "FrequencyAblation",
    "GradientAlignment",
    "GridSimilarity",
    "HookedModel",
    "Interval",
    "KeyFrequencyLosses",
    "LearntLens",
    "LensSiteCka",
    "LocatedSites",
    "LogitEfficiency",
    "LogitLens",
    "MeanInterval",
    "NeuronFrequencies",
    "NodeAttribution",
    "NormAtLogit",
    "OutputSite",
    "PairLogits",
    "PartnerPool",
    "Partners",
    "PartsOnSplit",
    "PathIdentity",
    "PathPatching",
    "Place",
    "PlaceOfEntity",
    "Plateau",
    "Plateaus",
    "Probes",
    "ProgressMeasures",
    "QueryPairs",
    "Reader",
    "RepresentationMismatch",
    "Site",
    "SiteAblation",
    "SiteOverlap",
    "SiteRate",
    "StateEffects",
    "Target",
    "ToyModelConfig",
    "ToyModelRun",
    "Transition",
    "TrigDecomposition",
    "WeightNorms",
    "WeightSpectra",
    "Writer",
    "ablation",
    "ablation_components",
    "accuracy_plateaus",
    "accuracy_transition",
    "activation_patching",
    "all_edges",
    "answer_logits",
    "attention_patterns",
    "attribution_agreement",
    "attribution_patching",
    "bridge_das",
    "bridge_geometry",
    "bridge_recovery",
    "causal_tests",
    "causal_tracing",
    "centred_pair_logits",
    "closed_form_ratio",
    "concentration",
    "cross_interchange",
    "crossing",
    "decompose",
    "direct_logit_attribution",
    "edge_agreement",
    "edge_attribution_patching",
    "efficiency_row",
    "fit_characters",
    "frequency_ablation",
    "frequency_energy",
    "fresh_weights",
    "generalising_norm_share",
    "gini",
    "gradient_weight_alignment",
    "grid_similarity",
    "inner_stages",
    "input_elements",
    "is_pure_circuit",
    "isotypic_projector",
    "key_frequency_rows",
    "known_good",
    "learnt_lens",
    "lens_site_cka",
    "locate_sites",
    "logit_efficiency",
    "logit_lens",
    "mean_interval",
    "neuron_frequencies",
    "node_agreement",
    "noise_pairs",
    "norm_at_logit",
    "pair_logits",
    "pair_queries",
    "partner_fitness",
    "patched_answers",
    "path_patching",
    "position_sets",
    "predicted_answers",
    "probe",
    "progress_measures",
    "proportion_interval",
    "representation_mismatch",
    "residual_states",
    "rows_frame",
    "rows_of",
    "scaled_norm",
    "site_overlap",
    "site_states",
    "target_of",
    "target_tokens",
    "trig_decomposition",
    "two_circuit_toy_model",
    "weight_norms",
    "weight_spectra",
]
