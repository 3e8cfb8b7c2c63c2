"""What proves that a net computes what it did when it was saved: its logits on a few fixed inputs."""

from collections.abc import Mapping

import torch
from torch import Tensor

from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Task

FINGERPRINT = "fingerprint/"
N_FINGERPRINT_ROWS = 16
_MAX_ATTENTION_CELLS = 2**26
"""Rows times squared positions: more would cost gigabytes at every load."""


def fingerprint_tokens(net: HookedNet, task: Task | None) -> Tensor:
    """Inputs to know the net by: what it was trained on, else what it is asked, else anything."""
    if task is None:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(net.cfg.d_vocab, (N_FINGERPRINT_ROWS, net.cfg.n_ctx), generator=generator)
    queries = task.training if len(task.training) else next(iter(task.splits.values()))
    return queries.tokens[:N_FINGERPRINT_ROWS].contiguous()


def read_fingerprint(tensors: Mapping[str, Tensor], *, d_vocab_out: int) -> tuple[Tensor, Tensor]:
    """The fixed inputs and the logits on them, their form checked."""
    tokens, logits = (tensors.get(FINGERPRINT + part) for part in ("tokens", "logits"))
    if tokens is None or logits is None:
        raise ValueError(f"it has no {FINGERPRINT}tokens and {FINGERPRINT}logits to check it by")
    _check_fingerprint_form(tokens, logits, d_vocab_out=d_vocab_out)
    return tokens, logits


def _check_fingerprint_form(tokens: Tensor, logits: Tensor, *, d_vocab_out: int) -> None:
    """Fixed inputs are rows of token ids, at least one, and each position has a logit per output token."""
    form = f"{list(tokens.shape)} {tokens.dtype} tokens and {list(logits.shape)} {logits.dtype} logits"
    if tokens.ndim != 2 or tokens.numel() == 0 or tokens.dtype != torch.long or not logits.is_floating_point():
        raise ValueError(f"its fingerprint must be [n, pos] token ids with floating-point logits, got {form}")
    if logits.shape != (*tokens.shape, d_vocab_out):
        raise ValueError(f"its fingerprint must have {d_vocab_out} logits for each token, got {form}")
    if len(tokens) > N_FINGERPRINT_ROWS or tokens.numel() * tokens.shape[1] > _MAX_ATTENTION_CELLS:
        raise ValueError(f"its fingerprint must be small ({N_FINGERPRINT_ROWS} rows), got {form}")


@torch.no_grad()
def fingerprint_logits(net: HookedNet, tokens: Tensor) -> Tensor:
    """Logits on the fingerprint inputs, on the CPU, whatever the net's mode."""
    return net(tokens).cpu().contiguous()
