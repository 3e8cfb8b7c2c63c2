"""A transformer whose effective layers reuse fewer blocks, in HookedTransformer's names."""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from circuit_lab.nets.block import TransformerBlock, make_tied_blocks
from circuit_lab.nets.components import (
    Embed,
    PosEmbed,
    Unembed,
    at_position,
    check_answer_arguments,
    is_hooked,
    look_up,
    make_norm,
)
from circuit_lab.nets.config import SharedTransformerConfig
from circuit_lab.nets.distinct_inputs import DistinctInputs
from circuit_lab.nets.prefix_tree import MOST_SHARED_POSITIONS, Prefixes
from circuit_lab.nets.sites import find_lens_site, lens_sites_of_layers
from circuit_lab.nets.tied_weights import TiedRootModule
from circuit_lab.nets.transformer_lens_interface import TransformerLensInterface


class HookedSharedTransformer(TransformerLensInterface, TiedRootModule):
    """A causal or bidirectional transformer with a `layer_map` from effective layers to blocks.

    Every effective layer is a module of its own with its own HookPoints, so that each hook fires once per forward pass;
    layers of the same block hold the same Parameters, so that `parameters()` counts each weight once.

    TransformerLens's ActivationCache, node patching, logit lens, node attribution and interchange tools accept the net;
    most of them want it in `eval()`. What they cannot do with it:

    * Edge attribution and direct path patching raise NotImplementedError: there is no copy of the stream per reader.
    * Direct logit attribution is exact on pre-norm nets only. In a post-norm net the stream is not the sum of what the
      components write, so the attributions do not add up to the logit. With norms but without a final one it raises
      ValueError.

    Attributes:
        cfg: The configuration, frozen.
        lens_sites: The states between layers, in order.

    Args:
        config: Shape, computation and initial weights.
    """

    def __init__(self, config: SharedTransformerConfig) -> None:
        super().__init__()
        self.cfg = config
        self.lens_sites = lens_sites_of_layers(config.n_layers)
        self.embed = Embed(config)
        self.hook_embed = HookPoint()
        self.pos_embed = PosEmbed(config)
        self.hook_pos_embed = HookPoint()
        # A ModuleList types its items as Module only.
        self.blocks = cast(Sequence[TransformerBlock], nn.ModuleList(make_tied_blocks(config)))
        self.ln_final = make_norm(config) if config.final_norm else nn.Identity()
        self.unembed = Unembed(config)
        self._modules_after_last_state = (
            *self.blocks[-1].modules(),
            *self.ln_final.modules(),
            self.unembed,
        )
        self._draw_initial_weights()
        self.setup()
        self._every_module = tuple(self.modules())

    def _draw_initial_weights(self) -> None:
        """Draw W_E, W_pos, then per block W_Q, W_K, W_V, W_O, W_in, W_out, then W_U, each from N(0, std).

        One CPU generator seeded with `init_seed` serves all of them, so the weights depend on the config alone.
        """
        generator = torch.Generator(device="cpu").manual_seed(self.cfg.init_seed)
        self.embed.reset_parameters(generator)
        self.pos_embed.reset_parameters(generator)
        for block_id in range(self.cfg.n_blocks):
            block = self.blocks[self.cfg.layer_map.index(block_id)]
            block.attn.reset_parameters(generator)
            block.mlp.reset_parameters(generator)
        self.unembed.reset_parameters(generator)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_U.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.W_U.dtype

    def forward(
        self,
        tokens: Int[Tensor, "n pos"] | None = None,
        *,
        start_at: str | None = None,
        residual: Float[Tensor, "n pos d_model"] | None = None,
        answer_only: bool = False,
        answer_position: Int[Tensor, " n"] | None = None,
        return_type: Literal["logits"] = "logits",
    ) -> Float[Tensor, "n pos d_vocab_out"] | Float[Tensor, "n d_vocab_out"]:
        """The logits at every position, or at the answer's position alone.

        Args:
            tokens: Token ids, at most `n_ctx` a row. Not read when resuming.
            start_at: Label or hook name of a lens site: resume from the state there, running only the layers after it.
                Those run whole, with all their hooks; no hook before them fires.
            residual: The state at `start_at`.
            answer_only: Return only the logits at `answer_position`, and skip what they do not need. While any module
                from the last block on has a hook, nothing is skipped, so a hook always sees the classic shapes.
            answer_position: The position of each row whose logits are wanted; the last by default.
            return_type: "logits", the only type there is.

        Returns:
            Logits, `[n, pos, d_vocab_out]`, or `[n, d_vocab_out]` with `answer_only`.

        Arguments that do not fit together, or a lens site that is not there, are a ValueError.
        """
        check_answer_arguments(return_type, answer_only, answer_position)
        state, layer = self._starting_state(tokens, start_at, residual)
        if answer_only:
            return self._logits_at_answer(state, layer, answer_position)
        for block in self.blocks[layer:]:
            state = block(state)
        return self.logits_at(state)

    def logits_of_distinct(self, inputs: DistinctInputs) -> Float[Tensor, "n d_vocab_out"]:
        """The logits at the answers of a batch, with the layer's keys and values of equal inputs computed once.

        Args:
            inputs: From `distinct_inputs`.

        Returns:
            What `forward` with `answer_only` returns, up to rounding.

        Raises:
            ValueError: If the net has more layers: after the first, states depend on the whole query; or if it has a
                hook, which would see other shapes than `forward` shows it.
        """
        if self.cfg.n_layers != 1:
            raise ValueError(f"logits_of_distinct needs a net of one layer, this one has {self.cfg.n_layers}")
        self._refuse_hooks("logits_of_distinct")
        states = self._distinct_embeddings(inputs.token, inputs.position)
        return self.logits_at(self.blocks[0].at_answers(states, inputs))

    def gains_by_prefixes(self, n_pos: int) -> bool:
        """Whether `logits_of_prefixes` can be had and does not lose to `forward`, as long as there are no hooks.

        Not on a GPU: the number of prefixes changes from batch to batch, which makes it wait.

        Args:
            n_pos: Positions of the queries.

        Returns:
            Whether the net is causal and on the CPU, and the queries are short.
        """
        is_causal = self.cfg.attention_dir == "causal"
        return is_causal and self.device.type == "cpu" and n_pos <= MOST_SHARED_POSITIONS

    def logits_of_prefixes(self, prefixes: Prefixes) -> Float[Tensor, "n d_vocab_out"]:
        """The logits at the answers of a batch, with the states of equal beginnings of queries computed once.

        Args:
            prefixes: From `PrefixTree.prefixes_of`.

        Returns:
            What `forward` with `answer_only` returns, up to rounding.

        Raises:
            ValueError: If the net is bidirectional: its states depend on what follows, too; or if it has a hook, which
                would see other shapes than `forward` shows it.
        """
        if self.cfg.attention_dir != "causal":
            raise ValueError(f"logits_of_prefixes needs a causal net, this one is {self.cfg.attention_dir}")
        self._refuse_hooks("logits_of_prefixes")
        state = self._distinct_embeddings(prefixes.token, prefixes.position)
        for block in self.blocks[:-1]:
            state = block.at_prefixes(state, prefixes)
        return self.logits_at(self.blocks[-1].at_prefixes(state, prefixes, prefixes.query))

    @property
    def has_hooks(self) -> bool:
        """Whether any module has a hook, of TransformerLens or of torch."""
        return any(map(is_hooked, self._every_module))

    def _refuse_hooks(self, method: str) -> None:
        if self.has_hooks:
            raise ValueError(f"{method} needs a net without hooks; use forward, or remove them")

    def _distinct_embeddings(
        self, token: Int[Tensor, " distinct"], position: Int[Tensor, " distinct"]
    ) -> Float[Tensor, "distinct d_model"]:
        """The first state of each pair of token and position."""
        return look_up(token, self.embed.W_E) + look_up(position, self.pos_embed.W_pos)

    def logits_at(self, residual: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab_out"]:
        """The logit lens: final norm (if any), then unembedding."""
        return self.unembed(self.ln_final(residual))

    def _starting_state(
        self,
        tokens: Int[Tensor, "n pos"] | None,
        start_at: str | None,
        residual: Float[Tensor, "n pos d_model"] | None,
    ) -> tuple[Float[Tensor, "n pos d_model"], int]:
        """The state to run on from, and how many layers it has behind it."""
        if start_at is not None:
            if residual is None:
                raise ValueError(f"start_at = {start_at!r} needs residual, the state there; it is None")
            return residual, find_lens_site(self.lens_sites, start_at).layer
        if residual is not None:
            raise ValueError("residual is given without start_at; name the lens site it belongs to")
        if tokens is None:
            raise ValueError("tokens is None; give tokens, or start_at and residual to resume")
        return self._embed(tokens), 0

    def _embed(self, tokens: Int[Tensor, "n pos"]) -> Float[Tensor, "n pos d_model"]:
        """Token plus position embedding."""
        if tokens.ndim != 2 or tokens.shape[1] > self.cfg.n_ctx:
            raise ValueError(
                f"tokens must be [n, pos] with pos at most n_ctx = {self.cfg.n_ctx}, got shape {list(tokens.shape)}"
            )
        tokens = tokens.to(self.device)
        return self.hook_embed(self.embed(tokens)) + self.hook_pos_embed(self.pos_embed(tokens))

    def _logits_at_answer(
        self, state: Float[Tensor, "n pos d_model"], layer: int, answer_position: Int[Tensor, " n"] | None
    ) -> Float[Tensor, "n d_vocab_out"]:
        """The logits at one position of each row; the last block computes that position alone if nobody watches."""
        n, pos = state.shape[:2]
        position = torch.tensor(pos - 1).expand(n) if answer_position is None else answer_position
        position = position.to(state.device)
        if any(map(is_hooked, self._modules_after_last_state)):
            for block in self.blocks[layer:]:
                state = block(state)
            return at_position(self.logits_at(state), position)
        if layer == self.cfg.n_layers:
            return self.logits_at(at_position(state, position))
        for block in self.blocks[layer:-1]:
            state = block(state)
        return self.logits_at(self.blocks[-1](state, position).squeeze(1))
