"""One effective layer, and the tying of several layers' weights."""

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint

from circuit_lab.nets.components import MLP, Attention, at_position, make_norm
from circuit_lab.nets.config import SharedTransformerConfig
from circuit_lab.nets.distinct_inputs import DistinctInputs
from circuit_lab.nets.prefix_tree import Prefixes
from circuit_lab.nets.tied_weights import tied_copy


class TransformerBlock(nn.Module):
    """Attention, then an MLP, each adding to the residual stream.

    Pre-norm: `mid = pre + attn(ln1(pre))`, `post = mid + mlp(ln2(mid))`.
    Post-norm: `mid = ln1(pre + attn(pre))`, `post = ln2(mid + mlp(mid))`.
    """

    hook_out_is_single_residual_stream = True
    """Tells TransformerLens that `hook_resid_post` is the stream that the next block, or the unembedding, reads."""

    def __init__(self, cfg: SharedTransformerConfig) -> None:
        super().__init__()
        self.is_pre_norm = cfg.norm_position == "pre"
        self.ln1 = make_norm(cfg)
        self.attn = Attention(cfg)
        self.ln2 = make_norm(cfg)
        self.mlp = MLP(cfg)
        self.hook_resid_pre = HookPoint()
        self.hook_attn_out = HookPoint()
        self.hook_resid_mid = HookPoint()
        self.hook_mlp_out = HookPoint()
        self.hook_resid_post = HookPoint()

    def forward(
        self, residual: Float[Tensor, "n pos d_model"], query_position: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n query d_model"]:
        """The stream after this layer.

        Args:
            residual: The stream before it.
            query_position: The one position of each row that is wanted; None for all of them.

        Returns:
            The stream at every position, or `[n, 1, d_model]` at `query_position`.
        """
        pre = self.hook_resid_pre(residual)
        attn_out = self.hook_attn_out(self.attn(self.ln1(pre) if self.is_pre_norm else pre, query_position))
        if query_position is not None:
            pre = at_position(pre, query_position).unsqueeze(1)
        return self._after_attention(pre, attn_out)

    def at_answers(
        self, residual: Float[Tensor, "distinct d_model"], inputs: DistinctInputs
    ) -> Float[Tensor, "n d_model"]:
        """The stream after this layer at the answer position of each query, from the distinct states before it."""
        attn_out = self.attn.at_answers(self.ln1(residual) if self.is_pre_norm else residual, inputs)
        return self._after_attention(F.embedding(inputs.asked[inputs.query], residual), attn_out)

    def at_prefixes(
        self, residual: Float[Tensor, "prefixes d_model"], prefixes: Prefixes, query: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n d_model"]:
        """The stream after this layer at the end of each prefix, or of those that `query` names."""
        attn_out = self.attn.at_prefixes(self.ln1(residual) if self.is_pre_norm else residual, prefixes, query)
        return self._after_attention(residual if query is None else F.embedding(query, residual), attn_out)

    def _after_attention(
        self, pre: Float[Tensor, "*batch d_model"], attn_out: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Add what attention writes to the stream, then what the MLP does."""
        after_attn = pre + attn_out
        mid = self.hook_resid_mid(after_attn if self.is_pre_norm else self.ln1(after_attn))
        mlp_out = self.hook_mlp_out(self.mlp(self.ln2(mid) if self.is_pre_norm else mid))
        after_mlp = mid + mlp_out
        return self.hook_resid_post(after_mlp if self.is_pre_norm else self.ln2(after_mlp))


def make_tied_blocks(cfg: SharedTransformerConfig) -> list[TransformerBlock]:
    """One module per effective layer; modules of the same block hold the same Parameters."""
    blocks: list[TransformerBlock] = []
    for layer, block_id in enumerate(cfg.layer_map):
        first_use = cfg.layer_map.index(block_id)
        blocks.append(TransformerBlock(cfg) if first_use == layer else tied_copy(blocks[first_use]))
    return blocks
