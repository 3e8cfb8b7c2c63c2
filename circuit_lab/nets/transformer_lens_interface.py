"""What TransformerLens's tools ask of a model beside its hooks: weights stacked over layers, token lookup, settings."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import FactoredMatrix

from circuit_lab.nets.block import TransformerBlock
from circuit_lab.nets.components import Embed, Norm, PosEmbed, Unembed


class TransformerLensInterface:
    """HookedTransformer's weight properties and small methods, for a net that has the attributes below.

    Attributes:
        embed: Token embedding.
        pos_embed: Position embedding.
        blocks: One module per effective layer.
        ln_final: Final norm, or the identity.
        unembed: Unembedding.
    """

    embed: Embed
    pos_embed: PosEmbed
    blocks: Sequence[TransformerBlock]
    ln_final: nn.Module
    unembed: Unembed

    def _stack(self, name: str) -> Tensor:
        """One weight of every effective layer."""
        return torch.stack([attrgetter(name)(block) for block in self.blocks])

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Token embedding."""
        return self.embed.W_E

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """Position embedding."""
        return self.pos_embed.W_pos

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab_out"]:
        """Unembedding."""
        return self.unembed.W_U

    @property
    def b_U(self) -> Float[Tensor, " d_vocab_out"]:
        """Bias of the unembedding; zero when the net has none."""
        return self.unembed.b_U

    @property
    def W_Q(self) -> Float[Tensor, "n_layers n_heads d_model d_head"]:
        """Query weights."""
        return self._stack("attn.W_Q")

    @property
    def W_K(self) -> Float[Tensor, "n_layers n_heads d_model d_head"]:
        """Key weights."""
        return self._stack("attn.W_K")

    @property
    def W_V(self) -> Float[Tensor, "n_layers n_heads d_model d_head"]:
        """Value weights."""
        return self._stack("attn.W_V")

    @property
    def W_O(self) -> Float[Tensor, "n_layers n_heads d_head d_model"]:
        """Attention output weights."""
        return self._stack("attn.W_O")

    @property
    def W_in(self) -> Float[Tensor, "n_layers d_model d_mlp"]:
        """MLP input weights."""
        return self._stack("mlp.W_in")

    @property
    def W_out(self) -> Float[Tensor, "n_layers d_mlp d_model"]:
        """MLP output weights."""
        return self._stack("mlp.W_out")

    @property
    def b_Q(self) -> Float[Tensor, "n_layers n_heads d_head"]:
        """Query biases; zero when the net has none, as for every bias below."""
        return self._stack("attn.b_Q")

    @property
    def b_K(self) -> Float[Tensor, "n_layers n_heads d_head"]:
        """Key biases."""
        return self._stack("attn.b_K")

    @property
    def b_V(self) -> Float[Tensor, "n_layers n_heads d_head"]:
        """Value biases."""
        return self._stack("attn.b_V")

    @property
    def b_O(self) -> Float[Tensor, "n_layers d_model"]:
        """Attention output biases."""
        return self._stack("attn.b_O")

    @property
    def b_in(self) -> Float[Tensor, "n_layers d_mlp"]:
        """MLP input biases."""
        return self._stack("mlp.b_in")

    @property
    def b_out(self) -> Float[Tensor, "n_layers d_model"]:
        """MLP output biases."""
        return self._stack("mlp.b_out")

    @property
    def QK(self) -> FactoredMatrix:
        """Query-key circuit of every head, `W_Q W_K^T`."""
        return FactoredMatrix(self.W_Q, self.W_K.transpose(-2, -1))

    @property
    def OV(self) -> FactoredMatrix:
        """Output-value circuit of every head, `W_V W_O`."""
        return FactoredMatrix(self.W_V, self.W_O)

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """Sum of the biases that the layers before `layer` add to a pre-norm net's stream.

        Args:
            layer: How many layers to count.
            mlp_input: Whether to count the attention bias of `layer` itself too.
            include_mlp_biases: Whether the MLPs' biases count beside the attentions'.

        Returns:
            The sum.

        Raises:
            ValueError: If the net has not that many layers.
        """
        n_attn = layer + 1 if mlp_input else layer
        if not 0 <= layer <= n_attn <= len(self.blocks):
            raise ValueError(
                f"accumulated_bias: layer = {layer} with mlp_input = {mlp_input} needs the attention of "
                f"{n_attn} layers, the net has {len(self.blocks)}"
            )
        total = self.b_O[:n_attn].sum(dim=0)
        return total + self.b_out[:layer].sum(dim=0) if include_mlp_biases else total

    def tokens_to_residual_directions(
        self, tokens: int | str | Int[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape d_model"]:
        """The direction of the stream, divided by its final norm's scale, that each token's logit reads.

        It is the token's column of `W_U` times the final norm's weight, that is, what folding the norm into the
        unembedding would give. So direct logit attribution is exact on the net as it is: the components' attributions
        add up to the logit less a constant of the token, `b_U` plus `b @ W_U` with b the final norm's bias.

        Args:
            tokens: A token id or a tensor of them.

        Returns:
            One direction per token.

        Raises:
            ValueError: If given a string, or if the blocks have norms and the stream's end has none:
                TransformerLens would then look for a final scale that does not exist.
        """
        if isinstance(tokens, str):
            raise ValueError(f"this net has no tokenizer, so it cannot read {tokens!r}; give token ids")
        directions = self.W_U.T[tokens]
        if isinstance(self.ln_final, Norm):
            return directions * self.ln_final.w
        if isinstance(self.blocks[0].ln1, Norm):
            raise ValueError(
                "this net has norms but no final one (final_norm = False), which TransformerLens's attribution tools "
                "do not know; multiply by the unembedding instead: cache.decompose_resid() @ net.W_U"
            )
        return directions

    def to_tokens(self, tokens: str | Int[Tensor, "*shape"], **_settings: Any) -> Int[Tensor, "*shape"]:
        """The tokens themselves, for tools that would tokenise a string here; a string is a ValueError."""
        if not isinstance(tokens, Tensor):
            raise ValueError(f"this net has no tokenizer, so it cannot read {tokens!r}; give a tensor of token ids")
        return tokens

    def to_single_token(self, token: str | int) -> int:
        """The token itself, likewise."""
        if not isinstance(token, int):
            raise ValueError(f"this net has no tokenizer, so it cannot read {token!r}; give a token id")
        return token

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Nothing to set: `hook_result` is computed whenever it has a hook."""

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Refuse to give heads separate inputs, which edge attribution and direct path patching patch."""
        _refuse_edge_hooks("hook_q_input, hook_k_input and hook_v_input", asked=use_split_qkv_input)

    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Refuse to give the MLP a separate input, likewise."""
        _refuse_edge_hooks("hook_mlp_in", asked=use_hook_mlp_in)

    def set_use_attn_in(self, use_attn_in: bool) -> None:
        """Refuse to give attention a separate input, likewise."""
        _refuse_edge_hooks("hook_attn_in", asked=use_attn_in)


def _refuse_edge_hooks(names: str, *, asked: bool) -> None:
    """Raise when a tool asks for hooks on the copies of the stream that single edges of the graph carry."""
    if asked:
        raise NotImplementedError(
            f"this net has no {names}: one norm per layer serves all readers of the stream, so that every hook fires "
            "once per forward pass. Edge attribution and direct path patching are therefore not available; use node "
            'granularity, EdgeAttributionConfig(granularity="node"), or the get_act_patch_* of nodes'
        )
