"""`circuit-lab reproduce`: run a study of published claims, and say which held."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuit_lab.cli.errors import user_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from circuit_lab.studies import Judgement, Reproduction

EPILOG = """Examples:\n\n
circuit-lab reproduce\n\n
circuit-lab reproduce augmentation_regimes --scale smoke --seeds 1\n\n
circuit-lab reproduce fake_grokking --seeds 3 --jobs 2\n\n
circuit-lab reproduce transfer --out analyses/transfer/small --svg
"""
COLOURS = {"held": "green", "not held": "red", "inconclusive": "yellow", "untested": "dim"}


def _names(incomplete: str) -> list[str]:
    """Studies that a word on the command line may become."""
    from circuit_lab.studies import study_names

    return [name for name in study_names() if name.startswith(incomplete)]


def reproduce_command(
    study: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="A study; without one, they are listed.", autocompletion=_names)
    ] = None,
    scale: Annotated[str, typer.Option(help="smoke, small, medium or paper.")] = "small",
    seeds: Annotated[int, typer.Option(min=1, help="How many repetitions, with seeds 0, 1, ...")] = 3,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results.", show_default="runs/studies/SCALE/results/ID")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the training runs, which studies share.")] = Path(
        "runs/studies"
    ),
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0 for one on each core.")] = 0,
    device: Annotated[str, typer.Option(help="Where nets are trained: auto, cpu, cuda or mps.")] = "auto",
    svg: Annotated[bool, typer.Option("--svg", help="Figures as SVG files (needs circuit-lab\\[docs]).")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the judgements as one JSON object.")] = False,
) -> None:
    """Train a study's nets, measure them, and judge the published claims.

    A stopped study goes on where it was; Ctrl-C saves first. Exits 0 whatever held; 1 if a number at small scale lies
    outside the band that the study expects; 2 on bad input.
    """
    with user_errors():
        if study is None:
            _list()
            return
        import os

        from circuit_lab.report.figure_files import write_figure_page, write_svgs
        from circuit_lab.studies import reproduce
        from circuit_lab.training import TrainingInterrupted

        if out is not None and out.exists() and not out.is_dir():
            raise ValueError(f"--out {out} is a file; name a folder, such as analyses/{study}/{scale}")
        try:
            found = reproduce(
                study,
                scale=scale,
                seeds=range(seeds),
                out=out,
                runs=runs,
                n_jobs=jobs or os.cpu_count() or 1,
                device=device,
            )
        except TrainingInterrupted as stop:
            typer.echo(f"circuit-lab: {stop}", err=True)
            raise typer.Exit(128 + stop.signal_number) from stop
        figures = {name: draw(found.results.measurements) for name, draw in found.study.figures.items()}
        if svg:
            write_svgs(figures, found.folder)
        else:
            write_figure_page(figures, found.folder / "figures.html", title=found.study.title)
    if json:
        typer.echo(_as_json(found))
    else:
        _print(found)
    if found.unexpected:
        raise typer.Exit(1)


def _list() -> None:
    """The studies and the scales."""
    from circuit_lab.studies import SCALES, find_study, study_names

    for name in study_names():
        typer.echo(f"{name:<22} {find_study(name).title}")
    typer.echo()
    for scale, cost in SCALES.items():
        typer.echo(f"--scale {scale:<14} {cost}")


def _print(found: "Reproduction") -> None:
    """Each claim: what was published, what was measured, whether it held."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"[bold]{found.study.title}[/bold]")
    provenance = found.results.provenance
    console.print(f"scale {provenance.scale}, {len(provenance.seeds)} seeds, commit {provenance.commit}\n")
    for judgement in found.judgements:
        _print_claim(console, judgement)
    console.print(f"Written: {found.folder}")
    for judgement in found.unexpected:
        assert judgement.expected is not None, "a number is unexpected where one was expected"
        console.print(
            f"[red]! {judgement.claim.name}: {_by_seed(judgement)} is not {judgement.expected.bound}, where a "
            "repetition at small scale should fall[/red]"
        )


def _print_claim(console: "object", judgement: "Judgement") -> None:
    from rich.console import Console
    from rich.markup import escape

    assert isinstance(console, Console)
    claim, holding = judgement.claim, judgement.holding
    console.print(f"[bold]{claim.name}[/bold]: [{COLOURS[holding]}]{holding}[/{COLOURS[holding]}]")
    console.print(f"  published  {escape(claim.published)}")
    console.print(f"  quantity   {escape(claim.quantity)}; holds if {claim.holds_if}")
    chance = "" if claim.chance is None else f"; no effect gives {claim.chance:g}"
    console.print(f"  measured   {_by_seed(judgement)}{chance}\n")


def _by_seed(judgement: "Judgement") -> str:
    """Mean, its 95 % interval, and every seed's number."""
    if judgement.mean is None:
        return "nothing: no seed has a number"
    numbers: Sequence[str] = [f"{value:.3g}" for value in judgement.values.values()]
    missing = f", {len(judgement.seeds_without)} without" if judgement.seeds_without else ""
    interval = "" if judgement.interval is None else " [{:.3g}, {:.3g}]".format(*judgement.interval)
    return f"{judgement.mean:.3g}{interval} (seeds: {', '.join(numbers)}{missing})"


def _as_json(found: "Reproduction") -> str:
    import json

    return json.dumps(
        {
            "provenance": found.results.provenance.model_dump(mode="json"),
            "claims": [
                {
                    "name": judgement.claim.name,
                    "published": judgement.claim.published,
                    "quantity": judgement.claim.quantity,
                    "holding": judgement.holding,
                    "mean": judgement.mean,
                    "interval": judgement.interval,
                    "values": judgement.values,
                    "unexpected": judgement.unexpected,
                }
                for judgement in found.judgements
            ],
        },
        indent=1,
    )
