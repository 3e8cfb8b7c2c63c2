"""A tiny recursive model: two streams, rewritten in turn by one stack of shared blocks.

Source: the tiny recursive model that [He] arXiv 2601.09049 trains on two-hop queries. With x the input embedding and
f the stack of `n_blocks` blocks, from fixed random z_L and z_H, `h_cycles` times:

1. `l_cycles` times, z_L <- f(z_L + z_H + x): the inner steps "H0.L0", "H0.L1", ...;
2. z_H <- f(z_H + z_L): the commit "H0.commit".

The logits are z_H W_U at the tokens' positions. Deviations: what that code computes in bfloat16 is computed in the type
of the weights; its halting head is left out, which does not change the logits; its prefix is a plain parameter, so it
is trained by the optimiser of the other weights; z_L and z_H start anew with each forward pass.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from circuit_lab.nets.components import at_position, check_answer_arguments, is_hooked
from circuit_lab.nets.recursive_components import (
    PlainUnembed,
    PrefixedEmbed,
    PrefixedPosEmbed,
    RecursiveBlock,
    Rotation,
    draw_truncated,
    make_tied_recursive_blocks,
    rotation,
)
from circuit_lab.nets.recursive_config import RecursiveTransformerConfig
from circuit_lab.nets.sites import lens_sites_of_cycles, sites_to_resume
from circuit_lab.nets.tied_weights import TiedRootModule


@dataclass
class _Streams:
    """Where a forward pass stands.

    Attributes:
        z_L: The latent stream.
        z_H: The answer stream.
        x: The input embedding; None where no later step reads it.
        n_done: Steps, inner ones and commits, that have run.
    """

    z_L: Float[Tensor, "n pos d_model"]
    z_H: Float[Tensor, "n pos d_model"]
    x: Float[Tensor, "n pos d_model"] | None
    n_done: int


class HookedRecursiveTransformer(TiedRootModule):
    """A recursive transformer with a module of its own, and HookPoints, for every application of every block.

    The modules of one block hold the same Parameters, so that each hook fires once per forward pass, a cache keeps
    every pass, and `parameters()` counts each weight once. Layer `i` is block `i % n_blocks` in step `i // n_blocks`.

    States have the positions of the prefix first, then those of the tokens; `answer_position` counts tokens alone.

    The fixed initial streams are saved buffers and not Parameters: a checkpoint needs them, but no optimiser, weight
    norm or `requires_grad_` may touch them.

    Attributes:
        cfg: The configuration, frozen.
        lens_sites: The input embedding, z_L after each inner step and z_H after each commit, in order.
        z_L_init: What z_L starts from at every position, `[d_model]`.
        z_H_init: What z_H starts from, likewise.

    Args:
        config: Shape, computation and initial weights.
    """

    z_L_init: Tensor
    z_H_init: Tensor

    def __init__(self, config: RecursiveTransformerConfig) -> None:
        super().__init__()
        self.cfg = config
        self.lens_sites = lens_sites_of_cycles(
            h_cycles=config.h_cycles, l_cycles=config.l_cycles, n_blocks=config.n_blocks
        )
        self.embed = PrefixedEmbed(config)
        self.hook_embed = HookPoint()
        self.pos_embed = PrefixedPosEmbed(config) if config.positions == "learned" else None
        if self.pos_embed is not None:
            self.hook_pos_embed = HookPoint()
        self.hook_input = HookPoint()
        # A ModuleList types its items as Module only.
        self.blocks = cast(Sequence[RecursiveBlock], nn.ModuleList(make_tied_recursive_blocks(config)))
        self.unembed = PlainUnembed(config)
        for name in ("z_L_init", "z_H_init"):
            self.register_buffer(name, torch.zeros(config.d_model, device="cpu", dtype=torch.float32))
        self._draw_initial_weights()
        self.setup()

    def _draw_initial_weights(self) -> None:
        """Draw W_E, W_pos, then per block its weights, then W_U, then z_L and z_H; the prefix stays 0.

        One CPU generator seeded with `init_seed` serves all of them, so the weights depend on the config alone.
        """
        generator = torch.Generator(device="cpu").manual_seed(self.cfg.init_seed)
        self.embed.reset_parameters(generator)
        if self.pos_embed is not None:
            self.pos_embed.reset_parameters(generator)
        for block in self.blocks[: self.cfg.n_blocks]:
            block.reset_parameters(generator)
        self.unembed.reset_parameters(generator)
        for initial in (self.z_L_init, self.z_H_init):
            draw_truncated(initial, std=1.0, generator=generator)

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Token embedding, before it is multiplied by sqrt(d_model)."""
        return self.embed.W_E

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab_out"]:
        """Unembedding."""
        return self.unembed.W_U

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
        residual: Float[Tensor, "n rows d_model"] | None = None,
        answer_only: bool = False,
        answer_position: Int[Tensor, " n"] | None = None,
        return_type: Literal["logits"] = "logits",
    ) -> Float[Tensor, "n pos d_vocab_out"] | Float[Tensor, "n d_vocab_out"]:
        """The logits at every token position, or at the answer's position alone.

        Args:
            tokens: Token ids, at most `n_ctx` a row; with token mixing by "position_mlp" exactly `n_ctx`. Not read when
                resuming.
            start_at: Label or hook name of a lens site: resume from there, running only the steps after it. Those run
                whole, with all their hooks; no hook before them fires.
            residual: The states at `sites_to_resume(net.lens_sites, start_at)`, the rows of one behind those of the
                other, as many of each: the later steps read the other stream and the input, too. A state has
                `n_positions` rows, or fewer where fewer tokens were read.
            answer_only: Return only the logits at `answer_position`. While the unembedding has a hook it is applied to
                all positions, so that a hook always sees the same shapes.
            answer_position: The position of each row, counted without the prefix, whose logits are wanted; the last by
                default.
            return_type: "logits", the only type there is.

        Returns:
            Logits, `[n, pos, d_vocab_out]`, or `[n, d_vocab_out]` with `answer_only`.

        Raises:
            ValueError: If the arguments do not fit together, or there is no such lens site.
        """
        check_answer_arguments(return_type, answer_only, answer_position)
        if start_at is not None:
            streams = self._resumed_streams(start_at, residual)
        elif residual is not None:
            raise ValueError("residual is given without start_at; name the lens site it belongs to")
        elif tokens is None:
            raise ValueError("tokens is None; give tokens, or start_at and residual to resume")
        else:
            streams = self._initial_streams(self._input(tokens))
        answer_stream = self._run(streams)[:, self.cfg.n_prefix :]
        return self._logits_at_answer(answer_stream, answer_position) if answer_only else self.logits_at(answer_stream)

    def logits_at(self, residual: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab_out"]:
        """The logit lens: the unembedding, of a state of either stream, at any position."""
        return self.unembed(residual)

    def _input(self, tokens: Int[Tensor, "n pos"]) -> Float[Tensor, "n prefix_and_pos d_model"]:
        """The input embedding: prefix and tokens times sqrt(d_model), with learned positions if there are any."""
        only = self.cfg.token_mixing == "position_mlp"
        fits = tokens.ndim == 2 and (
            tokens.shape[1] == self.cfg.n_ctx or (not only and tokens.shape[1] < self.cfg.n_ctx)
        )
        if not fits:
            bound = "exactly" if only else "at most"
            raise ValueError(
                f"tokens must be [n, pos] with pos {bound} n_ctx = {self.cfg.n_ctx}, got shape {list(tokens.shape)}"
            )
        embedded = math.sqrt(self.cfg.d_model) * self.embed(tokens.to(self.device))
        if self.pos_embed is None:
            return self.hook_input(self.hook_embed(embedded))
        places = math.sqrt(self.cfg.d_model) * self.pos_embed(*embedded.shape[:2])
        # The sum of two independent embeddings has the variance of one again.
        summed = self.hook_embed(embedded / math.sqrt(2)) + self.hook_pos_embed(places / math.sqrt(2))
        return self.hook_input(summed)

    @property
    def embedding_scale(self) -> float:
        """What a token's embedding `W_E` is multiplied by in the input."""
        return math.sqrt(self.cfg.d_model if self.pos_embed is None else self.cfg.d_model / 2)

    def _initial_streams(self, x: Float[Tensor, "n pos d_model"]) -> _Streams:
        """Both streams as they start, at every position."""
        return _Streams(z_L=self.z_L_init.expand_as(x), z_H=self.z_H_init.expand_as(x), x=x, n_done=0)

    def _resumed_streams(self, start_at: str, residual: Float[Tensor, "n rows d_model"] | None) -> _Streams:
        """Both streams as they stood at a lens site."""
        needed = sites_to_resume(self.lens_sites, start_at)
        labels = " and ".join(repr(site.label) for site in needed)
        if residual is None:
            raise ValueError(f"start_at = {start_at!r} needs residual, the state at {labels}; it is None")
        n_rows, left_over = divmod(residual.shape[1], len(needed))
        most = self.cfg.n_positions
        fewest = most if self.cfg.token_mixing == "position_mlp" else self.cfg.n_prefix + 1
        if left_over or not fewest <= n_rows <= most:
            each, together = (_span(n * fewest, n * most) for n in (1, len(needed)))
            raise ValueError(
                f"start_at = {start_at!r} needs residual to be the state at {labels}, of {each} positions each, as "
                f"many of each, one behind the other: {together} rows; got shape {list(residual.shape)}"
            )
        state_of = {site.stream: state for site, state in zip(needed, residual.split(n_rows, dim=1), strict=True)}
        initial = {"z_L": self.z_L_init, "z_H": self.z_H_init}
        z_L, z_H = (state_of.get(name, fixed.expand(len(residual), n_rows, -1)) for name, fixed in initial.items())
        return _Streams(z_L=z_L, z_H=z_H, x=state_of.get("input"), n_done=self.lens_sites.index(needed[0]))

    def _run(self, streams: _Streams) -> Float[Tensor, "n pos d_model"]:
        """The steps that are left; z_H after the last."""
        by = self._rotation(streams.z_H.shape[1])
        first_with_gradient = 0
        if self.training and self.cfg.gradient == "last_h_cycle":
            first_with_gradient = self.cfg.n_stages - (self.cfg.l_cycles + 1)
        z_L, z_H = streams.z_L, streams.z_H
        for step in range(streams.n_done, self.cfg.n_stages):
            with torch.set_grad_enabled(torch.is_grad_enabled() and step >= first_with_gradient):
                if self.lens_sites[step + 1].stream == "z_H":
                    z_H = self._step(step, z_H + z_L, by)
                else:
                    assert streams.x is not None
                    z_L = self._step(step, z_L + z_H + streams.x, by)
        return z_H

    def _step(
        self, step: int, stream: Float[Tensor, "n pos d_model"], by: Rotation | None
    ) -> Float[Tensor, "n pos d_model"]:
        """The stack of blocks, in the modules that are this step's own."""
        first = step * self.cfg.n_blocks
        for block in self.blocks[first : first + self.cfg.n_blocks]:
            stream = block(stream, by)
        return stream

    def _rotation(self, n_positions: int) -> Rotation | None:
        """The rotation of queries and keys, if this net has rotary positions."""
        if self.cfg.positions != "rotary":
            return None
        return rotation(n_positions, self.cfg.d_head, base=self.cfg.rotary_base, device=self.device, dtype=self.dtype)

    def _logits_at_answer(
        self, answer_stream: Float[Tensor, "n pos d_model"], answer_position: Int[Tensor, " n"] | None
    ) -> Float[Tensor, "n d_vocab_out"]:
        """The logits at one token position of each row."""
        n, pos = answer_stream.shape[:2]
        position = torch.tensor(pos - 1).expand(n) if answer_position is None else answer_position
        position = position.to(answer_stream.device)
        if is_hooked(self.unembed):
            return at_position(self.logits_at(answer_stream), position)
        return self.logits_at(at_position(answer_stream, position))


def _span(fewest: int, most: int) -> str:
    """How many there may be, in words.

    >>> _span(3, 7), _span(7, 7)
    ('3 to 7', '7')
    """
    return f"{most}" if fewest == most else f"{fewest} to {most}"
