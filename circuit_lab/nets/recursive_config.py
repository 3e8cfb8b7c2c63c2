"""Configuration of a recursive transformer: everything its shape, its computation and its initial weights depend on."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from circuit_lab.nets.config import HookedConfig

WIDTH_MULTIPLE = 256
"""Inner widths of a SwiGLU are rounded up to a multiple of this, as in the released code."""
MAX_LAYERS = 4096
"""Every application of a block is a module of its own; more of them than this are a typing error, not a net."""
_DERIVED: Any = None
"""Default of the fields that `_fill_derived_defaults` fills before any field is checked."""


def swiglu_width(width: int, *, expansion: float) -> int:
    """Neurons of a SwiGLU that reads `width` numbers: two thirds of `expansion * width`, rounded up.

    >>> swiglu_width(1536, expansion=4.0), swiglu_width(16, expansion=4.0)
    (4096, 256)
    """
    return -(-max(1, round(expansion * width * 2 / 3)) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


class RecursiveTransformerConfig(HookedConfig):
    """Shape, computation and initialisation of a `HookedRecursiveTransformer`.

    Source: the tiny recursive model that [He] arXiv 2601.09049 trains on two-hop queries. Its names for our fields:
    L_layers (n_blocks), H_cycles, L_cycles, hidden_size (d_model), num_heads, pos_encodings ("rope" is "rotary"),
    mlp_t (token_mixing = "position_mlp"), puzzle_emb_len (n_prefix), seq_len (n_ctx).

    Attributes:
        kind: Tells this net from others in a recipe or a checkpoint.
        n_blocks: Blocks with weights of their own; together they are the stack that is applied at every step.
        h_cycles: How often the answer stream z_H is rewritten.
        l_cycles: How often the latent stream z_L is rewritten in each of them.
        d_model: Width of both streams.
        token_mixing: "attention", or "position_mlp": a SwiGLU over positions.
        attention_dir: "bidirectional", as published, or "causal": a position attends to itself and those before it.
        n_heads: Attention heads per block, a divisor of d_model; 0, the default, with "position_mlp".
        expansion: Width of a SwiGLU, `swiglu_width` of what it reads.
        d_vocab: Number of input tokens.
        d_vocab_out: Number of output tokens; d_vocab unless given.
        n_ctx: Largest number of token positions, at most 65,536; with "position_mlp" the only one.
        n_prefix: Learned positions before the tokens, at most 4,096; 0 at initialisation.
        positions: "rotary" (halves rotated, with attention only), "learned" (added to the embedding, whose sum is then
            divided by sqrt(2)), or "none".
        rotary_base: Base of the rotary wavelengths, in positions.
        eps: Added to the mean square before the square root.
        gradient: What a training step differentiates: "last_h_cycle", the published way, takes the streams before the
            last cycle as given; "all" goes through all of them. In `eval` mode it is always all.
        init_seed: Seed of the initial weights and of the fixed initial streams.
    """

    kind: Literal["recursive_transformer"] = "recursive_transformer"
    n_blocks: int = Field(ge=1)
    h_cycles: int = Field(ge=1)
    l_cycles: int = Field(ge=1)
    d_model: int = Field(ge=1)
    token_mixing: Literal["attention", "position_mlp"] = "attention"
    attention_dir: Literal["bidirectional", "causal"] = "bidirectional"
    n_heads: int = Field(default=0, ge=0)
    expansion: float = Field(default=4.0, gt=0, le=1024, allow_inf_nan=False)
    d_vocab: int = Field(ge=1)
    d_vocab_out: int = Field(default=_DERIVED, ge=1)
    n_ctx: int = Field(ge=1, le=65_536)
    n_prefix: int = Field(default=0, ge=0, le=4096)
    positions: Literal["rotary", "learned", "none"] = "none"
    rotary_base: float = Field(default=10000.0, gt=0, allow_inf_nan=False)
    eps: float = Field(default=1e-5, gt=0, allow_inf_nan=False)
    gradient: Literal["last_h_cycle", "all"] = "last_h_cycle"
    init_seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="before")
    @classmethod
    def _fill_derived_defaults(cls, data: Any) -> Any:
        """Fill the default that follows from another field; what is missing is reported by field later."""
        if isinstance(data, Mapping) and "d_vocab_out" not in data and "d_vocab" in data:
            return {**data, "d_vocab_out": data["d_vocab"]}
        return data

    @model_validator(mode="after")
    def _check_depth(self) -> "RecursiveTransformerConfig":
        """A net is built with a module for every application of a block."""
        if self.n_layers > MAX_LAYERS:
            raise ValueError(
                f"h_cycles = {self.h_cycles}, l_cycles = {self.l_cycles} and n_blocks = {self.n_blocks} make "
                f"{self.n_layers} layers, h_cycles * (l_cycles + 1) * n_blocks; at most {MAX_LAYERS} are built"
            )
        return self

    @model_validator(mode="after")
    def _check_token_mixing(self) -> "RecursiveTransformerConfig":
        """Heads and rotary positions belong to attention."""
        if self.token_mixing == "position_mlp":
            if self.n_heads != 0:
                raise ValueError(
                    f'n_heads = {self.n_heads}, but token_mixing = "position_mlp" has no heads; leave n_heads out'
                )
            if self.attention_dir == "causal":
                raise ValueError(
                    'attention_dir = "causal" needs token_mixing = "attention"; an MLP over positions reads all of them'
                )
            if self.positions == "rotary":
                raise ValueError(
                    'positions = "rotary" turns queries and keys, but token_mixing = "position_mlp" has none; '
                    'set positions = "none" or "learned", or token_mixing = "attention"'
                )
        elif self.n_heads == 0 or self.d_model % self.n_heads != 0:
            raise ValueError(
                f"n_heads must divide d_model = {self.d_model}, got {self.n_heads}; "
                'give such a number, or token_mixing = "position_mlp"'
            )
        elif self.positions == "rotary" and self.d_head % 2 != 0:
            raise ValueError(
                f'positions = "rotary" turns the halves of a head, so d_head = d_model / n_heads must be even, '
                f"got {self.d_head}"
            )
        return self

    @property
    def d_head(self) -> int:
        """Width of a head; 0 without heads."""
        return self.d_model // self.n_heads if self.n_heads else 0

    @property
    def d_mlp(self) -> int:
        """Neurons of each MLP."""
        return swiglu_width(self.d_model, expansion=self.expansion)

    @property
    def d_position_mlp(self) -> int:
        """Neurons of each MLP over positions; used with "position_mlp" only."""
        return swiglu_width(self.n_positions, expansion=self.expansion)

    @property
    def n_positions(self) -> int:
        """Positions of a whole state: prefix and tokens."""
        return self.n_prefix + self.n_ctx

    def widest_activation(self, n_pos: int) -> int:
        """Numbers per query of `n_pos` token positions of the largest activation of a forward pass."""
        n_positions = self.n_prefix + n_pos
        widest = max(2 * n_positions * self.d_mlp, n_pos * self.d_vocab_out)
        if self.token_mixing == "position_mlp":
            return max(widest, 2 * self.d_model * self.d_position_mlp)
        return max(widest, self.n_heads * n_positions**2)

    @property
    def n_stages(self) -> int:
        """Applications of the whole stack."""
        return self.h_cycles * (self.l_cycles + 1)

    @property
    def layer_map(self) -> tuple[int, ...]:
        """Block that each effective layer uses."""
        return tuple(range(self.n_blocks)) * self.n_stages

    @property
    def n_layers(self) -> int:
        """Effective layers, shared blocks counted each time they are used."""
        return self.n_stages * self.n_blocks

    @property
    def in_words(self) -> str:
        """The architecture, in one line."""
        heads = "causal heads" if self.attention_dir == "causal" else "heads"
        mixing = f"{self.n_heads} {heads}" if self.n_heads else "an MLP over positions"
        return (
            f"recursive transformer, {self.h_cycles} x ({self.l_cycles} + 1) steps of {self.n_blocks} block(s), "
            f"width {self.d_model}, {mixing}, positions {self.positions}, prefix of {self.n_prefix}"
        )

    @property
    def model_name(self) -> str:
        """The net's kind, which TransformerLens asks for."""
        return self.kind
