"""Training of one-layer nets with HookedTransformer of TransformerLens 3.9, which needs an environment of its own.

    python hooked_transformer_peer.py FILE    # run by `PeerProcess`

As in TransformerLens's grokking demo: hooks in place, all positions computed, the loss by a float64 log_softmax. FILE
has settings, weights, tokens and answers. A line with a number n on stdin makes n steps; their losses are answered as
JSON.
"""

import json
import sys

import torch
from safetensors import safe_open
from safetensors.torch import load_file


def main() -> None:
    """Make steps as long as they are asked for."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig  # not there in our own environment

    torch.set_num_threads(1)
    with safe_open(sys.argv[1], "pt") as file:
        said = json.loads(file.metadata()["settings"])
    tensors = load_file(sys.argv[1])
    tokens, answer = (tensors.pop(name).to(said["device"]) for name in ("tokens", "answer"))
    dtype = getattr(torch, said["dtype"])
    net = HookedTransformer(HookedTransformerConfig(**said["net"], dtype=dtype, device=said["device"]))
    net.load_state_dict(
        {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    )
    for name, weight in net.named_parameters():
        weight.requires_grad_(name in said["trained"])
    optimizer = torch.optim.AdamW(net.parameters(), lr=said["learning_rate"], betas=said["betas"], weight_decay=0.0)
    for line in sys.stdin:
        losses = []
        for _ in range(int(line)):
            log_probs = net(tokens)[:, -1].to(torch.float64).log_softmax(dim=-1)
            loss = -log_probs.gather(-1, answer[:, None]).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        sys.stdout.write(json.dumps(losses) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
