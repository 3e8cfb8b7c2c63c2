"""What notebooks show of results, checkpoints, runs and comparisons: their own numbers, as text."""

import inspect
import re
from dataclasses import dataclass, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import torch
from small_nets import make_net, make_tokens
from told_runs import STORY, told_run

from circuit_lab import measures
from circuit_lab.measures.result import Result
from circuit_lab.nets.controls.modular import cosine_network, lookup_table
from circuit_lab.nets.controls.two_hop import fact_table_read_twice
from circuit_lab.report import display, figures
from circuit_lab.report.display import FIGURES, N_ROWS
from circuit_lab.tasks import ModularConfig, build_task, queries_from_tokens
from circuit_lab.training import Origin, load_checkpoint, reference_model, save_checkpoint
from circuit_lab.verdict.comparison.compare import compare

HOSTILE = "<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """The cells of each row, and every tag."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.tags, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):  # noqa: ARG002  (the parent's name)
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1] and self.tags[-1] in ("td", "th") and data.strip():
            self.rows[-1][-1] += data


@dataclass(frozen=True)
class Told(Result):
    """A result told by the test. <b>Bold</b>.

    More that is not shown.
    """

    table: pd.DataFrame
    n: int = 7

    def frame(self) -> pd.DataFrame:
        return self.table


def result_classes():
    """Every exported class that a measure returns as a table."""
    named = {name: getattr(measures, name) for name in measures.__all__}
    return {name: of for name, of in named.items() if inspect.isclass(of) and hasattr(of, "frame")}


def test_every_exported_result_shows_itself():
    classes = result_classes()
    assert len(classes) >= 25
    assert [name for name, of in classes.items() if not (issubclass(of, Result) and is_dataclass(of))] == []
    assert all("_repr_html_" in dir(of) for of in classes.values())


def test_every_figure_of_a_result_is_named_and_takes_it():
    """By the figure functions' own annotations, in both directions."""
    drawn = {}
    for figure in figures.__all__:
        drawn_type = next(iter(inspect.signature(getattr(figures, figure)).parameters.values())).annotation
        if inspect.isclass(drawn_type) and issubclass(drawn_type, Result):
            drawn.setdefault(drawn_type.__name__, []).append(figure)
    assert {name: sorted(functions) for name, functions in FIGURES.items()} == drawn


def test_by_hand():
    table = pd.DataFrame(
        {"site": [f"site {i}" for i in range(12)], "value": [0.123456, float("nan")] + [2.0] * 10, "n": range(12)}
    )
    html = Told(table)._repr_html_()
    page = Page(html)
    assert page.rows[0] == ["site", "value", "n"]
    assert page.rows[1] == ["site 0", "0.123", "0"] and page.rows[2] == ["site 1", "-", "1"]
    assert len(page.rows) == 1 + N_ROWS and "10 of 12 rows" in html
    assert "Told" in page.text and "n = 7" in page.text
    assert "A result told by the test. <b>Bold</b>." in page.text and "More" not in page.text
    assert "b" not in page.tags and "report.figures" not in html


@pytest.fixture(scope="module")
def small():
    net, answers = make_net(), torch.arange(12).view(2, 6)
    queries = [
        queries_from_tokens(make_tokens(6, seed=seed), answers[seed - 1], position_names="abcd") for seed in (1, 2)
    ]
    return net, measures.QueryPairs(*queries, "a")


MAKE = {
    "ActivationPatching": lambda net, pairs: measures.activation_patching(net, pairs, kind="resid"),
    "LogitLens": lambda net, pairs: measures.logit_lens(net, pairs.clean),
    "AttentionPatterns": lambda net, pairs: measures.attention_patterns(net, pairs.clean),
    "Ablation": lambda net, pairs: measures.ablation(net, pairs.clean),
    "DirectLogitAttribution": lambda net, pairs: measures.direct_logit_attribution(net, pairs.clean),
    "PathPatching": lambda net, pairs: measures.path_patching(net, pairs, edges=measures.all_edges(net)[:3]),
    "WeightNorms": lambda net, _: measures.weight_norms(net),
    "ToyModelRun": lambda *_: measures.two_circuit_toy_model(measures.ToyModelConfig(), n_steps=20),
}


@pytest.mark.parametrize("name", MAKE)
def test_real_results_show_their_first_rows(name, small):
    result = MAKE[name](*small)
    assert type(result).__name__ == name
    html, frame = result._repr_html_(), result.frame()
    page = Page(html)
    assert page.rows[0] == list(frame.columns)
    assert len(page.rows) == 1 + min(N_ROWS, len(frame))
    assert f"{min(N_ROWS, len(frame))} of {len(frame)} rows" in html
    first = [text if text != "-" else "nan" for text in page.rows[1]]
    for shown, column in zip(first, frame.columns, strict=True):
        value = frame[column].iloc[0]
        if frame[column].dtype.kind == "f" and value == value:
            assert float(shown) == pytest.approx(value, rel=6e-3), column
        else:
            assert shown == str(value), column
    for figure in FIGURES.get(name, ()):
        assert f"circuit_lab.report.figures.{figure}(result" in html


def test_the_call_that_is_shown_draws(small):
    result = MAKE["LogitLens"](*small)
    (call,) = re.findall(r"figures\.(logit_lens_figure\(.*?\))<", result._repr_html_())
    assert call == "logit_lens_figure(result, split=...)"
    assert figures.logit_lens_figure(result, split="test_id").data


def test_a_result_is_shown_without_hostile_markup():
    table = pd.DataFrame({HOSTILE: [HOSTILE]})
    page = Page(Told(table)._repr_html_())
    assert "img" not in page.tags and page.rows == [[HOSTILE], [HOSTILE]]


def test_a_checkpoint_says_what_it_is():
    checkpoint = reference_model("two-hop-true-circuit")
    text = Page(checkpoint._repr_html_()).text
    assert repr(checkpoint) == f"<Checkpoint {checkpoint.path}: step 20000, {checkpoint.task}>"
    # One block of four attention matrices and an MLP, three embeddings of 70 or 60 tokens and 3 positions, 64 wide.
    assert "59392 parameters" in text and "step 20000" in text
    assert "4 layers over 1 block(s)" in text
    assert "test_ood" in text and "0.925" in text
    assert "learning_rate = 0.001" in text and "regime = both_full" in text and "n_steps = 20000" in text
    assert "clean: no held-out query is a training item" in text
    assert "two-hop-true-circuit" in text and "kind = linear" not in text


def test_a_checkpoint_names_its_leaks_and_its_parent(small_task, tmp_path):
    net = fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab)
    recipe = {"parent": {"checkpoint": HOSTILE, "accuracy": {"test": 1.0}}, "training": {}}
    metrics = {HOSTILE: 0.5}
    saved = save_checkpoint(
        tmp_path / "a&b.safetensors", net=net, task=small_task, step=3, metrics=metrics, recipe=recipe
    )
    checkpoint = load_checkpoint(saved)
    page = Page(checkpoint._repr_html_())
    assert "img" not in page.tags and f"checkpoint = {HOSTILE}" in page.text and "a&b.safetensors" in page.text
    assert checkpoint.task.certificate.task_hash in page.text
    certificate = replace(small_task.certificate, leaks=("half of test_ood is in training",))
    leaked = Page(replace(checkpoint, given_task=replace(small_task, certificate=certificate))._repr_html_())
    assert "Split certificate: leaks." in leaked.text and "half of test_ood is in training" in leaked.text
    assert "clean" not in leaked.text


def test_an_imported_checkpoint_says_what_was_understood_of_it():
    origin = Origin(format="gpt2-folder", file=HOSTILE, inferred=(f"n_heads = {HOSTILE}",), ignored=("the mask",))
    page = Page(replace(reference_model("modular-grokked"), origin=origin)._repr_html_())
    assert "img" not in page.tags
    assert f"Imported from {HOSTILE} (gpt2-folder)" in page.text
    assert f"inferred: n_heads = {HOSTILE}" in page.text and "ignored: the mask" in page.text


def test_a_checkpoint_of_an_unknown_split_says_so():
    task = build_task(ModularConfig(p=59, split="unknown"))
    page = Page(replace(reference_model("modular-grokked"), given_task=task)._repr_html_())
    assert "Split unknown:" in page.text and "clean" not in page.text


def test_a_run_shows_its_answers_crossings_and_verdicts():
    run = told_run(**STORY)
    assert repr(run) == "<RunDiagnosis of told: 5 checkpoints, semi_grokked at step 50>"
    page = Page(run.model_copy(update={"source": HOSTILE})._repr_html_())
    assert "img" not in page.tags and HOSTILE in page.text
    assert all(answer.words in page.text for answer in run.answers)
    assert all(alarm.words in page.text for alarm in run.alarms) and run.alarms
    n_tables = page.tags.count("table")
    assert n_tables == 2 and len(page.rows) == 2 + len(run.crossings) + len(run.verdicts)
    assert "run_timeline_figure(run)" in page.text


def test_a_comparison_shows_its_answer_and_the_clear_differences():
    task = build_task(ModularConfig(p=13, train_share=0.5))
    table = lookup_table(13, task.pairs.tokens[:, :2], task.pairs.answer)
    circuit = cosine_network(13, frequencies=(1, 4))
    comparison = compare((circuit, task), (table, task))
    page = Page(comparison._repr_html_())
    assert repr(comparison).endswith(f"in memory: same path: {comparison.same_path}>")
    assert f"Same path: {comparison.same_path}" in page.text
    assert all(reason in page.text for reason in comparison.reasons)
    n_clear = comparison.n_excluding_zero
    assert n_clear > 0 and len(page.rows) == 1 + min(N_ROWS, n_clear)
    assert f"{min(N_ROWS, n_clear)} of the {n_clear} differences whose interval excludes 0" in page.text
    unclear = tuple(replace(row, excludes_zero=False) for row in comparison.differences)
    same = Page(comparison.model_copy(update={"differences": unclear})._repr_html_())
    assert same.rows == [] and "0 of the 0 differences" in same.text


def test_display_computes_nothing_new():
    """It reads frames and fields; no measure is called by it."""
    source = Path(display.__file__).read_text()
    assert "import torch" not in source and "from circuit_lab.measures.result import Result" in source
    assert len(re.findall(r"circuit_lab\.measures", source)) == 1
