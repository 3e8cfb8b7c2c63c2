"""Configuration of a shared transformer: everything its shape, its computation and its initial weights depend on."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

MAX_MASK_ENTRIES = 2**31
"""Every layer holds a mask of n_ctx x n_ctx positions: with more entries than this in all, a net would take gigabytes
before it has a weight."""
_DERIVED: Any = None
"""Default of the fields that `_fill_derived_defaults` fills before any field is checked."""


def _tuple_from_list(value: Any) -> Any:
    """TOML and JSON have lists where we have tuples; anything else is left to the strict check."""
    return tuple(value) if isinstance(value, list) else value


def _none_from_word(value: Any) -> Any:
    """TOML has no null, so a recipe writes `normalization_type = "none"`."""
    return None if value == "none" else value


class HookedConfig(BaseModel):
    """What TransformerLens asks of any net's cfg."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @property
    def device(self) -> torch.device:
        """Where TransformerLens collects its result tables; the weights may be elsewhere (`net.device`)."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Type of TransformerLens's result tables and of fresh weights; `net.to` may change the latter."""
        return torch.float32


class SharedTransformerConfig(HookedConfig):
    """Shape, computation and initialisation of a `HookedSharedTransformer`.

    Attributes:
        kind: Tells this net from others in a recipe or a checkpoint.
        layer_map: Block that each effective layer uses, ids from 0 in order of first use. Standard (0, 1, 2, 3);
            cycle (0, 1, 0, 1); universal (0, 0, 0, 0); repeated in place (0, 0, 1, 1).
        d_model: Width of the residual stream.
        n_heads: Attention heads per layer.
        d_head: Width of a head; d_model / n_heads unless given.
        d_mlp: Neurons per MLP.
        d_vocab: Number of input tokens.
        d_vocab_out: Number of output tokens; d_vocab unless given.
        n_ctx: Largest number of positions.
        act_fn: "gelu" is exact, "gelu_new" its tanh approximation.
        normalization_type: "LN" (centre, scale, weight and bias), "RMS" (scale and weight) or None, written "none" in
            TOML.
        norm_position: "pre" norms what attention and MLP read; "post" norms the stream after each has been added.
        final_norm: Norm before the unembedding; by default whenever there is a normalization_type.
        attention_dir: "causal" or "bidirectional".
        eps: Added to the variance before the square root.
        attn_bias: Whether queries, keys, values and attention output have biases.
        mlp_bias: Whether the MLP has biases.
        unembed_bias: Whether the unembedding has a bias.
        init_std: Standard deviation of every initial weight and embedding; None means 1 / sqrt(d_model).
        init_seed: Seed of the initial weights.
    """

    kind: Literal["shared_transformer"] = "shared_transformer"
    layer_map: Annotated[tuple[int, ...], BeforeValidator(_tuple_from_list)]
    d_model: int = Field(ge=1)
    n_heads: int = Field(ge=1)
    d_head: int = Field(default=_DERIVED, ge=1)
    d_mlp: int = Field(ge=1)
    d_vocab: int = Field(ge=1)
    d_vocab_out: int = Field(default=_DERIVED, ge=1)
    n_ctx: int = Field(ge=1)
    act_fn: Literal["gelu", "gelu_new", "relu", "silu"] = "gelu"
    normalization_type: Annotated[Literal["LN", "RMS"] | None, BeforeValidator(_none_from_word)] = "LN"
    norm_position: Literal["pre", "post"] = "pre"
    final_norm: bool = Field(default=_DERIVED)
    attention_dir: Literal["causal", "bidirectional"] = "causal"
    eps: float = Field(default=1e-5, gt=0, allow_inf_nan=False)
    attn_bias: bool = True
    mlp_bias: bool = True
    unembed_bias: bool = False
    init_std: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    init_seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("layer_map")
    @classmethod
    def _check_layer_map(cls, layer_map: tuple[int, ...]) -> tuple[int, ...]:
        """Block ids must be 0, 1, 2, ... in order of first use, so that equal nets have equal configs."""
        if not layer_map:
            raise ValueError("layer_map is empty; give the block of each effective layer, such as [0, 0, 0, 0]")
        rank = {block: index for index, block in enumerate(dict.fromkeys(layer_map))}
        renumbered = tuple(rank[block] for block in layer_map)
        if renumbered != layer_map:
            raise ValueError(
                f"layer_map must number blocks 0, 1, 2, ... in order of first use, got {list(layer_map)}; "
                f"the same sharing is written {list(renumbered)}"
            )
        return layer_map

    @model_validator(mode="before")
    @classmethod
    def _fill_derived_defaults(cls, data: Any) -> Any:
        """Fill the defaults that follow from other fields; what is missing or malformed is reported by field later."""
        if not isinstance(data, Mapping):
            return data
        filled = dict(data)
        d_model, n_heads = filled.get("d_model"), filled.get("n_heads")
        if "d_head" not in filled and type(d_model) is int and type(n_heads) is int and n_heads >= 1:
            if d_model % n_heads != 0:
                raise ValueError(
                    f"d_model = {d_model} is not divisible by n_heads = {n_heads}, so there is no default d_head; "
                    f"give d_head, or make d_model a multiple of {n_heads}"
                )
            filled["d_head"] = d_model // n_heads
        if "d_vocab_out" not in filled and "d_vocab" in filled:
            filled["d_vocab_out"] = filled["d_vocab"]
        if "final_norm" not in filled:
            filled["final_norm"] = _none_from_word(filled.get("normalization_type", "LN")) is not None
        return filled

    @model_validator(mode="after")
    def _check_norms(self) -> "SharedTransformerConfig":
        """A net without norms has no norm to place."""
        if self.normalization_type is None and self.final_norm:
            raise ValueError(
                "final_norm = true needs a norm, but normalization_type is none; "
                'set final_norm = false, or normalization_type = "LN" or "RMS"'
            )
        if self.normalization_type is None and self.norm_position == "post":
            raise ValueError(
                'norm_position = "post" needs a norm, but normalization_type is none; '
                'set norm_position = "pre", or normalization_type = "LN" or "RMS"'
            )
        return self

    @model_validator(mode="after")
    def _check_masks(self) -> "SharedTransformerConfig":
        """A config of a few bytes must not ask for more memory than there is."""
        n_entries = self.n_layers * self.n_ctx**2
        if n_entries > MAX_MASK_ENTRIES:
            raise ValueError(
                f"n_ctx = {self.n_ctx} positions in {self.n_layers} layer(s) need attention masks of {n_entries:,} "
                f"entries; at most {MAX_MASK_ENTRIES:,} are allowed"
            )
        return self

    @property
    def n_layers(self) -> int:
        """Effective layers, shared blocks counted each time they are used."""
        return len(self.layer_map)

    @property
    def n_blocks(self) -> int:
        """Blocks with weights of their own."""
        return max(self.layer_map) + 1

    def widest_activation(self, n_pos: int) -> int:
        """Numbers per query of `n_pos` positions of the largest activation of a forward pass."""
        return n_pos * max(self.d_mlp, 3 * self.n_heads * self.d_head, self.n_heads * n_pos, self.d_vocab_out)

    @property
    def weight_std(self) -> float:
        """Standard deviation of the initial weights, `init_std` or its default."""
        return 1 / math.sqrt(self.d_model) if self.init_std is None else self.init_std

    @property
    def in_words(self) -> str:
        """The architecture, in one line."""
        shared = f"{self.n_layers} layers over {self.n_blocks} block(s), layer_map {self.layer_map}"
        norm = f"{self.norm_position}-{self.normalization_type}" if self.normalization_type else "no norm"
        return f"{self.attention_dir} transformer, {shared}, width {self.d_model}, {self.n_heads} heads, {norm}"

    # What TransformerLens asks of a model's cfg, beside the fields above.

    @property
    def model_name(self) -> str:
        """The net's kind."""
        return self.kind

    @property
    def attn_only(self) -> bool:
        """Always False: every block has an MLP."""
        return False

    @property
    def n_key_value_heads(self) -> None:
        """Always None: every head has its own keys and values."""
        return None

    @property
    def positional_embedding_type(self) -> str:
        """Always "standard": learned, added to the token embedding."""
        return "standard"

    @property
    def parallel_attn_mlp(self) -> bool:
        """Always False: the MLP reads the stream after attention."""
        return False

    @property
    def use_attn_result(self) -> bool:
        """Always True: per-head results are there for whoever puts a hook on `hook_result`."""
        return True

    @property
    def use_split_qkv_input(self) -> bool:
        """Always False: heads do not read separate copies of the stream."""
        return False

    @property
    def use_hook_mlp_in(self) -> bool:
        """Always False: there is no `hook_mlp_in`."""
        return False

    @property
    def use_attn_in(self) -> bool:
        """Always False: there is no `hook_attn_in`."""
        return False
