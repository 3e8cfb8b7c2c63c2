"""A peer that cannot be imported beside us: trained in a process with the Python of `make bench-peers`."""

import json
import subprocess
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from safetensors.torch import save_file

from circuit_lab.exporters.legacy_transformer_lens import legacy_settings, legacy_state_dict
from circuit_lab.training.learner import Learner

ENVIRONMENT = Path(__file__).parents[2] / ".venv-peers"
INSTALLED = ENVIRONMENT / "installed"
PYTHON = ENVIRONMENT / "bin" / "python"
SCRIPT = Path(__file__).with_name("hooked_transformer_peer.py")


class PeerProcess(AbstractContextManager):
    """HookedTransformer 3.9 on the training items of a full-batch learner, from the same weights."""

    def __init__(self, learner: Learner) -> None:
        net, recipe = learner.net, learner.recipe
        tokens, answer, _ = learner.items
        settings = {
            "net": legacy_settings(net.cfg),
            "trained": list(dict(net.named_parameters())),
            "dtype": recipe.training.dtype,
            "device": str(learner.device),
            "learning_rate": recipe.optimizer.learning_rate,
            "betas": recipe.optimizer.betas,
        }
        tensors = legacy_state_dict(net) | {"tokens": tokens, "answer": answer}
        with tempfile.NamedTemporaryFile(suffix=".safetensors", delete=False) as file:
            self._file = Path(file.name)
        tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(tensors, self._file, {"settings": json.dumps(settings)})
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([PYTHON, SCRIPT, self._file], **pipes)

    def steps(self, n: int) -> list[float]:
        """The losses before each of `n` steps more."""
        self._process.stdin.write(f"{n}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._file.unlink()
