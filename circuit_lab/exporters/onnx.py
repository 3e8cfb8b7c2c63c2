"""A checkpoint as one self-contained ONNX file, checked before it is written.

Needs the packages onnx and onnxscript (`pip install 'circuit-lab[onnx]'`); where onnxruntime is installed too, the
file's logits are compared with the net's.
"""

import importlib
import importlib.util
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuit_lab.errors import InputError
from circuit_lab.nets import HookedNet, build_net
from circuit_lab.tasks.whole_folder import make_parent, refuse_occupied
from circuit_lab.training import Checkpoint, write_atomically
from circuit_lab.training.fingerprint import fingerprint_tokens

PACKAGES = ("onnx", "onnxscript")
TOLERANCE = 1e-5
"""Largest difference of logits, relative to the largest logit (or to 1): float32 sums in another order."""
MAX_BYTES = 2**31 - 2**20
"""A file with its weights inside can hold no more than 2 GiB (protobuf's limit)."""


class _Logits(nn.Module):
    """The net as a function of tokens alone."""

    def __init__(self, net: HookedNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits at every position."""
        return self.net(tokens)


def export_onnx(checkpoint: Checkpoint, path: str | Path) -> Path:
    """Write a checkpoint as ONNX: `tokens` [n, pos] int64 -> `logits` [n, pos, d_vocab_out] float32.

    Any number of rows n can be asked at once. The number of positions is the task's, or the net's if there is no task.
    Weights and arithmetic are float32. Step, task and hash of the weights stand in the model's metadata.

    Args:
        checkpoint: The checkpoint.
        path: The file, usually `*.onnx`. It appears whole or not at all.

    Returns:
        The file.

    Raises:
        InputError: If a package is missing, something is at the path already, the net is too large for one file, or
            the file would compute other logits than the net.
    """
    path = Path(path)
    _refuse_missing_packages()
    refuse_occupied(path, empty_folder_is_free=False)
    net = _float32_copy(checkpoint.net)
    n_bytes = 4 * sum(parameter.numel() for parameter in net.parameters(recurse=True))
    if n_bytes > MAX_BYTES:
        raise InputError(
            f"{checkpoint.path} has {n_bytes} bytes of weights, more than the {MAX_BYTES} one file can hold"
        )
    tokens = fingerprint_tokens(net, checkpoint.given_task)
    if len(tokens) == 1:  # or the exporter would take the number of rows for a constant
        tokens = tokens.repeat(2, 1)
    model = _exported(net, tokens)
    _add_metadata(model, checkpoint)
    content = _checked(model, net, tokens, checkpoint.path)
    make_parent(path)
    write_atomically(path, content)
    return path


def _refuse_missing_packages() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"ONNX export needs the packages {' and '.join(missing)}: pip install 'circuit-lab[onnx]'")


def _float32_copy(net: HookedNet) -> HookedNet:
    """The net without anybody's hooks, on the CPU, in float32."""
    copy = build_net(net.cfg).eval()
    copy.load_unique_state_dict({name: weight.cpu().float() for name, weight in net.unique_state_dict().items()})
    return copy


@torch.no_grad()
def _exported(net: HookedNet, tokens: Int[Tensor, "n pos"]) -> Any:
    """The ONNX model (an `onnx.ModelProto`), without traces of the machine it was made on."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns that torchvision is not there, which no net here needs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Logits(net).eval(),
                (tokens,),
                dynamo=True,
                verbose=False,
                input_names=["tokens"],
                output_names=["logits"],
                dynamic_shapes={"tokens": {0: torch.export.Dim("n")}},
            )
    finally:
        log.setLevel(level)
    assert program is not None
    model = program.model_proto
    _strip_traces(model)
    return model


def _strip_traces(model: Any) -> None:
    """Remove stack traces and the exporter's notes, which hold paths of this machine."""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
        for value in graph.value_info:
            del value.metadata_props[:]
        del graph.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.metadata_props[:]


def _add_metadata(model: Any, checkpoint: Checkpoint) -> None:
    task = checkpoint.given_task
    properties = {
        "circuit_lab_task": "none" if task is None else str(task),
        "circuit_lab_task_hash": "none" if task is None else task.certificate.task_hash,
        "circuit_lab_net": json.dumps(checkpoint.net.cfg.model_dump(mode="json"), sort_keys=True),
        "circuit_lab_step": str(checkpoint.step),
        "circuit_lab_weights_hash": checkpoint.weights_hash,
    }
    for key, value in properties.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    model.producer_name = "circuit_lab"
    model.producer_version = ""


def _checked(model: Any, net: HookedNet, tokens: Int[Tensor, "n pos"], place: Path) -> bytes:
    """The bytes of the file, after onnx's checker and, if it is installed, onnxruntime have accepted them."""
    checker: Any = importlib.import_module("onnx.checker")
    checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    if importlib.util.find_spec("onnxruntime") is not None:
        with torch.no_grad():
            ours = net(tokens)
        theirs = run_onnx(content, tokens)
        difference = float((theirs - ours).abs().max() / ours.abs().max().clamp(min=1.0))
        if not difference <= TOLERANCE:
            raise InputError(
                f"{place}: as ONNX its logits differ by {difference:.2g} of the largest (tolerance {TOLERANCE}), so no "
                "file was written; its weights are probably so large that float32 cannot hold the logits"
            )
    return content


def run_onnx(model: bytes | str, tokens: Int[Tensor, "n pos"]) -> Float[Tensor, "n pos d_vocab_out"]:
    """The logits of an ONNX file, by onnxruntime on the CPU with one thread.

    Args:
        model: Content or path of the file.
        tokens: Token ids.

    Returns:
        The logits.
    """
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"tokens": tokens.numpy()})[0])
