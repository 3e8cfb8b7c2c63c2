"""Training with TransformerLens 4 alone: a net of `boot_native`, torch's loss and AdamW, all queries whole."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

from circuit_lab.exporters.legacy_transformer_lens import legacy_settings, legacy_state_dict
from circuit_lab.training.learner import Learner

SETTINGS = ("optimizer.weight_decay=0.0", "optimizer.warmup_steps=0")
"""Of a recipe that is as easily said in plain torch: a constant rate, one group of parameters."""


class NativeTraining:
    """The training of a learner, on the same batches and from the same weights."""

    def __init__(self, learner: Learner) -> None:
        net, recipe = learner.net, learner.recipe.optimizer
        config = TransformerBridgeConfig(**legacy_settings(net.cfg))
        self.bridge = TransformerBridge.boot_native(config, device=str(net.device)).to(net.dtype).train()
        self.bridge.load_state_dict(convert_tl_checkpoint(legacy_state_dict(net), config))
        self.optimizer = torch.optim.AdamW(
            self.bridge.parameters(), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=0.0, fused=True
        )
        self.max_norm = recipe.max_gradient_norm
        self.items, self.batches = learner.items, learner.batches

    def step(self, step: int) -> Tensor:
        """One step; the loss before it."""
        tokens, answer, position = (part[self.batches.rows(step)] for part in self.items)
        rows = torch.arange(len(tokens), device=tokens.device)
        logits = self.bridge(tokens, return_type="logits")[rows, position]
        loss = F.cross_entropy(logits, answer)
        self.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(self.bridge.parameters(), self.max_norm)
        self.optimizer.step()
        return loss.detach()
