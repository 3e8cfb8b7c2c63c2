"""Write docs/verdicts.md: what each verdict rests on, when it can be wrong, and one example of each, diagnosed now.

python analyses/worked_examples/study.py            # rewrites docs/verdicts.md, in less than a minute
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from circuit_lab import Diagnosis, SharedTransformerConfig, TwoHopConfig, build_net, build_task, diagnose
from circuit_lab.nets.controls.two_hop import fact_table_read_twice, triple_table_over_circuit
from circuit_lab.tasks import TwoHopTask

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "verdicts.md"
TASK = TwoHopConfig(n_entities=20, n_relations=8, out_degree=8, ood_share=0.34, test_id_share=0.15, seed=3)


@dataclass(frozen=True)
class Example:
    """A net and how it is shown.

    Attributes:
        net: What it is, in words.
        diagnose: Diagnoses it.
    """

    net: str
    diagnose: Callable[[], Diagnosis]


def example_of(verdict: str, task: TwoHopTask) -> Example:
    """The worked example of a verdict."""
    known = task.facts[~task.is_ood]
    read_twice = {"facts": task.facts, "d_vocab": task.d_vocab}
    examples = {
        "untrained": Example(
            "a transformer with its initial weights",
            lambda: diagnose((_untrained(task), task)),
        ),
        "memorising": _reference("modular-memorising"),
        "id_circuit": Example(
            "wired by hand: both of its fact tables lack the OOD facts",
            lambda: diagnose((fact_table_read_twice(**read_twice, first_read=known, second_read=known), task)),
        ),
        "first_hop_failure": Example(
            "wired by hand: the first fact table lacks the OOD facts",
            lambda: diagnose((fact_table_read_twice(**read_twice, first_read=known), task)),
        ),
        "second_hop_failure": _reference("two-hop-second-hop-failure"),
        "fake_grokking": _reference("two-hop-shortcut"),
        "true_circuit": _reference("two-hop-true-circuit"),
        "semi_grokked": _reference("modular-semi-grokked"),
        "ungrokked": _reference("modular-ungrokked"),
        "inconclusive": Example(
            "wired by hand: a circuit, with a table over it that answers half of the queries",
            lambda: diagnose((_mixture(task, share_by_table=0.5), task)),
        ),
    }
    return examples[verdict]


def _reference(name: str) -> Example:
    return Example(f"the reference model `{name}`", lambda: diagnose(name))


def _untrained(task: TwoHopTask) -> torch.nn.Module:
    config = SharedTransformerConfig(
        layer_map=(0, 0, 0), d_model=32, n_heads=4, d_mlp=64, d_vocab=task.d_vocab, n_ctx=3
    )
    return build_net(config)


def _mixture(task: TwoHopTask, *, share_by_table: float) -> torch.nn.Module:
    """The true circuit under a table of each query with the given probability."""
    splits = ("train_inferred", "test_id", "hop1_ood", "hop2_ood", "test_ood")
    rows = [torch.cat([task.splits[s].tokens, task.splits[s].answer[:, None]], dim=1) for s in splits]
    triples = torch.cat(rows).unique(dim=0)
    drawn = torch.rand(len(triples), generator=torch.Generator().manual_seed(0)) < share_by_table
    return triple_table_over_circuit(task.facts, triples[drawn], d_vocab=task.d_vocab)


def page() -> str:
    """The page, with every example diagnosed."""
    task = build_task(TASK)

    def shown(verdict: str) -> dict[str, object]:
        example = example_of(verdict, task)
        diagnosis = example.diagnose()
        if diagnosis.verdict != verdict:
            raise SystemExit(f"the example of {verdict} is now called {diagnosis.verdict}: {diagnosis.reasons}")
        return {"net": example.net, "diagnosis": diagnosis}

    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    return environment.get_template("verdicts.md.jinja").render(example=shown)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
