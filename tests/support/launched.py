"""The command line in several processes at once, each told which one it is as a launcher tells it.

They are forked from the server of `killed_runs`, which has imported torch; what they run stands here, so that they
import nothing of the tests but this file.
"""

import os
import socket
import sys
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from killed_runs import start

_SECONDS = 60
"""Within which all must have ended."""


@dataclass(frozen=True)
class Ended:
    """How one process ended.

    Attributes:
        code: Its exit code.
        printed: What it wrote on either stream.
    """

    code: int | None
    printed: str


def environment(index: int, count: int, port: int) -> dict[str, str]:
    """What a launcher puts into the environment."""
    own = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in own.items()}


def run_command(told: dict[str, str], arguments: list[str], printed: str) -> None:
    """Child: the command, its streams in a file."""
    os.environ.update(told)
    with Path(printed).open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv = ["circuit-lab", *arguments]
    from circuit_lab.cli import main

    main()


def call_train(told: dict[str, str], tables: dict[str, Any], run: str, results: Any) -> None:
    """Child: `train` as a script calls it; tells what it returned, and whether accelerate was needed."""
    os.environ.update(told)
    from circuit_lab.training import parse_recipe, train

    result = train(parse_recipe(tables, source="a test"), run, device="cpu", progress=False)
    results.put((told["RANK"], result, "accelerate" in sys.modules))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launch(commands: list[list[str]], folder: Path) -> list[BaseProcess]:
    """Start one process for each command."""
    port, count = free_port(), len(commands)
    return [
        start(run_command, environment(index, count, port), arguments, str(folder / f"printed-{index}"))
        for index, arguments in enumerate(commands)
    ]


def ended(processes: list[BaseProcess], folder: Path) -> list[Ended]:
    """How each ended, in order; a process that hangs is an error."""
    try:
        for process in processes:
            process.join(_SECONDS)
            assert process.exitcode is not None, "a process hangs"
    finally:
        for process in processes:
            process.kill()
    return [Ended(p.exitcode, (folder / f"printed-{i}").read_text()) for i, p in enumerate(processes)]
