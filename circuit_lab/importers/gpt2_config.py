"""`config.json` of a GPT-2 folder: what the net is built from, what must have one value, what changes no logit.

Sources: `GPT2Config` of transformers 5, and the keys that GrokkedTransformer (Wang et al. 2024, arXiv 2405.15071,
github.com/OSU-NLP-Group/GrokkedTransformer) adds to it: `no_ln`, `no_mlp`, `share_mlp`, `add_memory` (other blocks),
`add_recurrence` (the layers run twice, one pass right after the other: positions are added and `ln_f` applied once) and
`re_embed` (between the passes the stream is unembedded and embedded again).
"""

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from circuit_lab.errors import InputError
from circuit_lab.tasks.safe_files import check_inside, load_json

CONFIG = "config.json"
MAX_JSON_BYTES = 64 * 2**20
"""The tokenizer of the largest GPT-2 takes 4 MB."""
MAX_POSITIONS = 4096
"""Each layer holds a mask of n_positions x n_positions: 16 MB at this size."""
MUST_BE: dict[str, Any] = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "quantization_config": None,
    "no_ln": False,
    "no_mlp": False,
    "share_mlp": False,
    "add_memory": False,
    "re_embed": False,
}
"""Another value is another function; a key that is left out has this one."""
# fmt: off
HARMLESS = frozenset((
    "_attn_implementation", "_attn_implementation_autoset", "_name_or_path", "architectures", "attn_implementation",
    "attn_pdrop", "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward",
    "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype",
    "early_stopping", "embd_pdrop", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "id2label",
    "initializer_range", "is_decoder", "label2id", "length_penalty", "max_length", "memory_dim", "min_length",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_past", "output_scores", "prefix", "problem_type", "re_embed_temp",
    "remove_invalid_values", "reorder_and_upcast_attn", "repetition_penalty", "resid_pdrop", "return_dict",
    "return_dict_in_generate", "sep_token_id", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "suppress_tokens", "task_specific_params",
    "temperature", "tf_legacy_loss", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript",
    "transformers_version", "typical_p", "use_bfloat16", "use_cache",
))
# fmt: on
"""Dropout, initialisation, generation, other heads than the language model's: they change no logit in `eval` mode."""


class GPT2Settings(BaseModel):
    """The keys of `config.json` that the net depends on.

    Attributes:
        model_type: "gpt2".
        n_layer: Layers with weights of their own.
        n_head: Heads per layer.
        n_embd: Width of the stream, a multiple of n_head.
        n_inner: Neurons per MLP; null means 4 x n_embd.
        n_positions: Positions it can read.
        n_ctx: The same under its older name.
        vocab_size: Tokens, unused ones at the end included.
        activation_function: Its name in transformers.
        layer_norm_epsilon: Added to the variance.
        tie_word_embeddings: Whether the unembedding is the embedding.
        eos_token_id: Token id of the end of text, with which the two-hop codes pad.
        pad_token_id: Token id of padding.
        add_recurrence: True if the layers run twice; None if the file does not say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model_type: Literal["gpt2"]
    n_layer: int = Field(ge=1)
    n_head: int = Field(ge=1)
    n_embd: int = Field(ge=1)
    n_inner: int | None = Field(default=None, ge=1)
    n_positions: int = Field(ge=1, le=MAX_POSITIONS)
    n_ctx: int | None = None
    vocab_size: int = Field(ge=1)
    activation_function: Literal["gelu_new", "gelu_pytorch_tanh", "gelu", "relu", "silu", "swish"] = "gelu_new"
    layer_norm_epsilon: float = Field(default=1e-5, gt=0)
    tie_word_embeddings: bool = True
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    add_recurrence: bool | None = None

    @property
    def d_mlp(self) -> int:
        """Neurons per MLP."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @property
    def padding_token(self) -> int | None:
        """Token id that stands where a sequence has ended; None if the file names none that exists."""
        for token in (self.pad_token_id, self.eos_token_id):
            if isinstance(token, int) and 0 <= token < self.vocab_size:
                return token
        return None


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object from a file of the folder.

    Args:
        folder: The folder.
        name: The file's name.

    Returns:
        The object.

    Raises:
        InputError: If the file lies elsewhere, cannot be read, is too large, or holds no JSON object.
    """
    path = folder / name
    content = load_json(check_inside(folder, name), what=name, max_bytes=MAX_JSON_BYTES)
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(content).__name__}; restore the file")
    return content


def read_settings(folder: Path) -> GPT2Settings:
    """What the net is built from; every key of `config.json` is accounted for.

    Args:
        folder: The folder.

    Returns:
        The settings.

    Raises:
        InputError: If a key is unknown, missing, or has a value that this net cannot have.
    """
    config, path = read_json(folder, CONFIG), folder / CONFIG
    if config.get("model_type") == "gpt2_cycle":
        raise InputError(
            f'{path}: model_type is "gpt2_cycle", a recurrence with two streams and a norm after each cycle '
            '(IsGrokkingWorthwhile); only "gpt2" is read'
        )
    for key, value in MUST_BE.items():
        if key in config and config[key] != value:
            raise InputError(
                f"{path}: {key} must be {json.dumps(value)}, got {_short(config[key])}; "
                "another value makes another function, which no net here computes"
            )
    known = [*GPT2Settings.model_fields, *MUST_BE, *HARMLESS]
    for key in sorted(config.keys() - set(known)):
        nearest = get_close_matches(key, known, n=1, cutoff=0.6)
        hint = f"; the nearest known key is {nearest[0]}" if nearest else ""
        raise InputError(f"{path}: unknown key {_short(key)} = {_short(config[key])}{hint}")
    settings = _validated({key: config[key] for key in config.keys() & GPT2Settings.model_fields.keys()}, path)
    if settings.n_embd % settings.n_head != 0:
        raise InputError(f"{path}: n_embd = {settings.n_embd} is not a multiple of n_head = {settings.n_head}")
    if settings.n_ctx not in (None, settings.n_positions):
        raise InputError(f"{path}: n_ctx = {settings.n_ctx} and n_positions = {settings.n_positions} must be equal")
    return settings


def _validated(used: dict[str, Any], path: Path) -> GPT2Settings:
    try:
        return GPT2Settings.model_validate(used)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        got = f", got {_short(used[key])}" if key in used else ""
        raise InputError(f"{path}: {key}: {first['msg']}{got}") from error


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
