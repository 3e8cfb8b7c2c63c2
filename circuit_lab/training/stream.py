"""All checkpoints of a run, one after the other, through one net and one task: memory does not grow with their number.

Every check of `load_checkpoint` is made on every file. What a run shares, the configs of net and task, is built once
from its first checkpoint, and must be the same in all others.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from circuit_lab.errors import InputError
from circuit_lab.training.checkpoint import Checkpoint, Record, empty_net, fill_net, read_parts
from circuit_lab.training.device import resolve_device
from circuit_lab.training.recorded_task import rebuild_task
from circuit_lab.training.run_folder import CHECKPOINTS, checkpoint_files, checkpoint_path, latest_checkpoint


def run_checkpoints(run: str | Path) -> list[Path]:
    """The checkpoint files of a run folder, in order of step.

    Args:
        run: The run folder.

    Returns:
        At least one path.

    Raises:
        InputError: If it is no run folder, or has no checkpoint yet.
    """
    run = Path(run)
    if not (run / CHECKPOINTS).is_dir():
        found = "it is a file" if run.is_file() else f"it has no {CHECKPOINTS}/" if run.is_dir() else "nothing is there"
        raise InputError(f"{run} is no run folder: {found}; give a folder that `circuit-lab train` wrote")
    return checkpoint_files(run) or [latest_checkpoint(run)]  # which says that there is none yet


def stream_checkpoints(run: str | Path, *, device: str = "cpu") -> Iterator[Checkpoint]:
    """Load the checkpoints of a run one after the other, in order of step, into one and the same net.

    The net that is yielded is refilled for the next checkpoint: read what you need of it before you go on, and do not
    keep it. `list(stream_checkpoints(run))` is many times the last net; use `load_checkpoint` to keep several.

    Args:
        run: The run folder.
        device: Where the net runs: "auto", "cpu", "cuda", "mps".

    Yields:
        Checkpoint: Each checkpoint. `net` and `task` are the same objects every time.

    What is no run folder is an InputError; and so is, when its turn comes, a file that cannot be loaded, or that is of
    another net, task or step than its place in the run says.
    """
    paths, where = run_checkpoints(run), resolve_device(device)
    first, tensors = read_parts(paths[0])
    task, net = rebuild_task(paths[0], first.task, first.task_hash), empty_net(paths[0], first, tensors)
    for path in paths:
        record, tensors = read_parts(path)
        _check_belongs(path, record, first, paths[0])
        if where.type != "cpu":
            net.cpu()
        fill_net(net, path, record, tensors)
        del tensors  # else the file's tensors stay while the net is used
        if where.type != "cpu":
            net.to(where)
        if net.training:
            net.eval()
        yield record.checkpoint(path, net=net, task=task)


def _check_belongs(path: Path, record: Record, first: Record, first_path: Path) -> None:
    """A file of another run, or under another step's name, would be read as this run's past or future."""
    if record.net != first.net:
        _refuse_stranger(path, first_path, "net", first.net, record.net)
    # Not the task's config: an older circuit_lab wrote fewer of its settings for the same task, which the hash tells.
    if record.task_hash != first.task_hash:
        _refuse_stranger(path, first_path, "task", first.task, record.task)
    if path.name != checkpoint_path(path.parent.parent, record.step).name:
        raise InputError(
            f"checkpoint {path} is of step {record.step}: its name is another step's; rename it to "
            f"{checkpoint_path(path.parent.parent, record.step).name}"
        )


def _refuse_stranger(
    path: Path, first_path: Path, what: str, mine: Mapping[str, Any] | None, its: Mapping[str, Any] | None
) -> NoReturn:
    mine, its = mine or {}, its or {}
    keys = [key for key in {**mine, **its} if mine.get(key) != its.get(key)]
    where = f" ({', '.join(keys)})" if keys else ""
    raise InputError(
        f"checkpoint {path} is not of the same run as {first_path}: its {what} is another{where}; move it away"
    )
