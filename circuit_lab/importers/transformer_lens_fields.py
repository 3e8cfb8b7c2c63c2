"""TransformerLens's settings of a net, in a table for each way to treat them.

They are the fields of `HookedTransformerConfig` (TransformerLens 1 to 3) and of `TransformerBridgeConfig` (4), read in
transformer_lens/HookedTransformerConfig.py and transformer_lens/config of the 1.x, 3.x and 4.3 sources.
"""

from collections.abc import Mapping
from typing import Any

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Our name of each of their activations; the three tanh approximations of gelu are one formula."""
NORMS = {None: (None, True), "LN": ("LN", True), "RMS": ("RMS", True), "LNPre": ("LN", False), "RMSPre": ("RMS", False)}
"""Our normalization_type for each of theirs, and whether theirs has weights of its own."""

SIZES = ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "d_vocab", "d_vocab_out", "n_ctx")
USED = (*SIZES, "act_fn", "eps", "normalization_type", "attention_dir")
MUST_BE: Mapping[str, tuple[Any, ...]] = {
    "architecture": (None, "TransformerLensNative"),
    "attn_only": (False,),
    "experts_per_token": (None,),
    "gated_mlp": (False,),
    "is_audio_model": (False,),
    "is_multimodal": (False,),
    "is_stateful": (False,),
    "is_visual_model": (False,),
    "layer_norm_folding": (False,),
    "load_in_4bit": (False,),
    "num_experts": (None,),
    "parallel_attn_mlp": (False,),
    "per_layer_head_dim": (None,),
    "per_layer_num_key_value_heads": (None,),
    "positional_embedding_type": ("standard",),
    "post_embedding_ln": (False,),
    "relative_attention_max_distance": (None,),
    "relative_attention_num_buckets": (None,),
    "rmsnorm_uses_offset": (False,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_embedding": (None, False),
    "use_attn_scale": (True,),
    "use_local_attn": (False,),
    "use_normalization_before_and_after": (False,),
    "use_qk_norm": (False,),
}
"""Settings that change the computation to one that a shared transformer does not do, unless they have these values."""
CHECKED = (
    "attn_scale",
    "attn_scores_soft_cap",
    "final_rms",
    "n_key_value_heads",
    "output_logits_soft_cap",
    "uses_rms_norm",
)
"""Settings whose allowed value depends on others; see `transformer_settings`."""
_HARMLESS = """
    NTK_by_parts_factor NTK_by_parts_high_freq_factor NTK_by_parts_low_freq_factor NTK_original_ctx_len
    attn_implementation attn_types checkpoint_index checkpoint_label_type checkpoint_value decoder_start_token_id
    default_padding_side default_prepend_bos device dtype from_checkpoint init_mode init_weights initializer_range
    mm_tokens_per_image model_name n_devices n_params norm_topk_prob original_architecture qk_norm_after_rope
    rope_scaling rotary_adjacent_pairs rotary_base rotary_base_local rotary_dim rotary_interleaved_cos_sin seed
    split_attention_weights tie_word_embeddings tokenizer_appends_eos tokenizer_name tokenizer_prepends_bos
    trust_remote_code ungroup_grouped_query_attention use_NTK_by_parts_rope use_attn_in use_attn_result use_hook_mlp_in
    use_hook_tokens use_split_qkv_input use_yarn_rope vision_hidden_size vision_num_heads vision_num_layers
    weight_init_mode window_size yarn_attention_factor yarn_beta_fast yarn_beta_slow yarn_factor
    yarn_original_max_position_embeddings
"""
HARMLESS = frozenset(_HARMLESS.split())
"""Settings of initial weights, hooks, devices and tokenizers, or of position embeddings and windows that are not on."""
