"""Memory of a diagnosis's parts on untrained nets of the published width: docs/paper_size.json, for `make bench`.

    python tests/benchmarks/paper_size.py

Two nets: that of the published recipe, and one of the same width and positions with one block and three steps, for
which more parts can be had in minutes. Of each part as many queries as a diagnosis gives it at most, or more than it
works on at once. Under an hour on one core.
"""

import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from circuit_lab.measures import (
    OutputSite,
    Site,
    bridge_recovery,
    causal_tests,
    partner_fitness,
    predicted_answers,
)
from circuit_lab.measures.sites import inner_stages
from circuit_lab.measures.two_hop.locate import _Hop1Trial
from circuit_lab.nets import HookedNet, build_net
from circuit_lab.tasks import Task
from circuit_lab.training import load_recipe
from circuit_lab.training.prepared import prepare
from circuit_lab.verdict.two_hop.diagnose import TrainingParts, divide_training

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "docs" / "paper_size.json"
RECIPE = ROOT / "analyses" / "recipes" / "recursive-paper.toml"
SHALLOW = ("net.n_blocks=1", "net.h_cycles=1", "net.l_cycles=2")


def deep_parts(net: HookedNet, task: Task) -> dict[str, Callable[[], object]]:
    """What can be had of the published net in minutes."""
    few = _divided(task)[0].reading[:170]
    return {
        "answers, 170 queries": lambda: predicted_answers(net, few),
        "logit lens, 170 queries": lambda: bridge_recovery(net, few),
        "locating at an output, 256 queries": lambda: _rates(net, task, lambda trial: OutputSite(trial.places[-1:])),
    }


def shallow_parts(net: HookedNet, task: Task) -> dict[str, Callable[[], object]]:
    """Every part."""
    divided, generator = _divided(task)
    few, partners, stages = divided.reading[:400], divided.partners, inner_stages(net)
    sites = [Site(stage, (1,)) for stage in stages]
    return {
        "answers, 400 queries": lambda: predicted_answers(net, few),
        "logit lens, 400 queries": lambda: bridge_recovery(net, few),
        "locating at two positions, 256 queries": lambda: _rates(net, task, lambda _: Site(stages[0], (0, 1))),
        "the same, held": lambda: _rates(net, task, lambda _: Site(stages[0], (0, 1), held=True)),
        "locating at an output, 256 queries": lambda: _rates(net, task, lambda trial: OutputSite(trial.places[-1:])),
        "fitness of 400 partners at two stages": lambda: partner_fitness(
            net, partners[:400], sites=sites, generator=generator
        ),
        "causal tests of 400 queries at two stages": lambda: causal_tests(
            net, few, partners, sites=sites, generator=generator
        ),
    }


def _rates(net: HookedNet, task: Task, site_of: Callable[[_Hop1Trial], Site | OutputSite]) -> None:
    divided, generator = _divided(task)
    trial = _Hop1Trial(net, divided.locating, divided.receivers, generator=generator, n_partners=4, batch_size=8192)
    trial.rate(site_of(trial))


def _divided(task: Task) -> tuple[TrainingParts, torch.Generator]:
    generator = torch.Generator().manual_seed(0)
    return divide_training(task.splits["train_inferred"], generator, max_queries=10_000), generator


def peak_gigabytes(action: Callable[[], object]) -> tuple[float, float]:
    """Largest resident size of this process while it works, and the seconds it takes."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the largest size so far
    start = time.perf_counter()
    action()
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024 / 1e9, seconds


def main() -> None:
    """Measure every part and write what was found."""
    console, measured = Console(stderr=True), list[dict[str, Any]]()
    task = prepare(load_recipe(RECIPE)).task
    for overrides, parts_of in ((SHALLOW, shallow_parts), ((), deep_parts)):
        config = load_recipe(RECIPE, overrides).net_config(
            d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=task.n_ctx
        )
        net = build_net(config).eval()
        n_parameters = sum(weight.numel() for weight in net.parameters())
        for name, action in parts_of(net, task).items():
            gc.collect()
            gigabytes, seconds = peak_gigabytes(action)
            row = {"net": net.cfg.in_words, "n_parameters": n_parameters, "part": name}
            measured.append(row | {"peak_gigabytes": round(gigabytes, 2), "seconds": round(seconds, 1)})
            console.print(f"{name}: {gigabytes:.2f} GB, {seconds:.0f} s", markup=False)
    RESULT.write_text(json.dumps({"n_training_items": len(task.training), "parts": measured}, indent=2) + "\n")


if __name__ == "__main__":
    main()
