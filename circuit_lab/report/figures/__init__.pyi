from .calibration import (
    calibration_figures,
    confusion_figure,
    degradation_figure,
    reliability_figure,
    threshold_figure,
)
from .components import (
    ablation_figure,
    attention_figure,
    direct_logit_attribution_figure,
    head_roles_figure,
)
from .diagnosis import (
    bridge_lens_figure,
    frequency_ablation_figure,
    frequency_spectrum_figure,
    logit_parts_figure,
    outcomes_figure,
    site_rates_figure,
)
from .edges import (
    attribution_agreement_figure,
    edge_attribution_figure,
    node_attribution_figure,
    path_patching_figure,
)
from .geometry import geometry_figure
from .modular import (
    component_spectra_figure,
    efficiency_figure,
    key_frequency_figure,
    logit_maps_figure,
    shown_attention_figure,
    trig_share_figure,
    weight_norms_figure,
)
from .patching import activation_patching_figure, causal_tracing_figure
from .readings import (
    learnt_lens_figure,
    logit_lens_figure,
    logit_lens_query_figure,
    probes_figure,
)
from .runs import run_timeline_figure
from .site_effects import site_effects_figure
from .subspaces import cka_figure, das_figure, path_identity_figure

__all__ = [
    "ablation_figure",
    "activation_patching_figure",
    "attention_figure",
    "attribution_agreement_figure",
    "bridge_lens_figure",
    "calibration_figures",
    "causal_tracing_figure",
    "cka_figure",
    "component_spectra_figure",
    "confusion_figure",
    "das_figure",
    "degradation_figure",
    "direct_logit_attribution_figure",
    "edge_attribution_figure",
    "efficiency_figure",
    "frequency_ablation_figure",
    "frequency_spectrum_figure",
    "geometry_figure",
    "head_roles_figure",
    "key_frequency_figure",
    "learnt_lens_figure",
    "logit_lens_figure",
    "logit_lens_query_figure",
    "logit_maps_figure",
    "logit_parts_figure",
    "node_attribution_figure",
    "outcomes_figure",
    "path_identity_figure",
    "path_patching_figure",
    "probes_figure",
    "reliability_figure",
    "run_timeline_figure",
    "shown_attention_figure",
    "site_effects_figure",
    "site_rates_figure",
    "threshold_figure",
    "trig_share_figure",
    "weight_norms_figure",
]
