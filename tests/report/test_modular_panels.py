"""The figures of a modular section: what is drawn is what was measured, with n, intervals and chance."""

import numpy as np
import pytest
import torch
from small_nets import make_net

from circuit_lab.measures import proportion_interval
from circuit_lab.nets.controls.modular import cosine_network
from circuit_lab.report.figures.modular import component_spectra_figure, logit_maps_figure
from circuit_lab.report.panels import panel_figures
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.verdict import diagnose
from circuit_lab.verdict.exhibits import gather_exhibits

P = 11


@pytest.fixture(scope="module")
def section():
    """Diagnosis, exhibits and panels of a wired net."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("circuit_lab.verdict.modular.diagnose.N_RESAMPLES", 10)
        task = build_task(ModularConfig(p=P, train_share=0.5, seed=1))
        diagnosis = diagnose((cosine_network(P, frequencies=[2, 5]), task))
    exhibits = gather_exhibits(diagnosis, max_per_outcome=3)
    return diagnosis, exhibits, panel_figures(diagnosis, exhibits)


def trace_named(figure, name):
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return trace


def title(figure):
    return figure.layout.title.text.replace("<br>", " ")


def test_the_groups_stand_in_reading_order_and_names_are_unique(section):
    diagnosis, _, panels = section
    assert list(panels) == ["Outcomes", "Frequencies", "Logits", "Lens and attention", "Norms and efficiency"]
    names = [name for figures in panels.values() for name in figures]
    assert len(names) == len(set(names)) == 11
    read = type(diagnosis).model_validate_json(diagnosis.to_json())
    of_json = panel_figures(read, None)
    assert {group: list(figures) for group, figures in of_json.items()} == {"Outcomes": ["outcomes"]}


def test_every_figure_has_a_title_and_only_numbers_that_json_knows(section):
    for figures in section[2].values():
        for figure in figures.values():
            assert figure.layout.title.text and figure.layout.height
            assert "NaN" not in figure.to_json() and "Infinity" not in figure.to_json()


def test_spectra_are_drawn_as_measured_and_key_frequencies_marked(section):
    _, exhibits, panels = section
    figure = panels["Frequencies"]["component_spectra"]
    (heat,) = figure.data
    assert list(heat.x) == ["1", "2", "3", "4", "5"] and heat.y[0] == "embedding<br>(1.00 of it)"
    assert [label.split("<br>")[0] for label in heat.y] == list(dict.fromkeys(exhibits.spectra["component"]))
    rows = exhibits.spectra.set_index(["component", "frequency"])["share"]
    for row, label in enumerate(heat.y):
        for column, frequency in enumerate(heat.x):
            assert heat.z[row][column] == pytest.approx(rows[label.split("<br>")[0], frequency], abs=6e-4)
    assert list(figure.layout.xaxis.tickvals) == ["2", "5"]
    assert "even: 0.200" in title(figure) and figure.layout.xaxis.title.text == "frequency of Z_11"


def test_without_key_frequencies_all_are_named(section):
    diagnosis, exhibits, _ = section
    figure = component_spectra_figure(
        exhibits.spectra.assign(key=False), group=diagnosis.measurements.decomposition.group
    )
    assert list(figure.layout.xaxis.tickvals) == ["1", "2", "3", "4", "5"]


def test_ablations_have_intervals_n_and_chance(section):
    diagnosis, _, panels = section
    figure, ablations = panels["Frequencies"]["key_frequencies"], diagnosis.measurements.ablations
    labels = [f"{split}<br>n = {len(ablation.right)}" for split, ablation in ablations.items()]
    assert list(figure.layout.yaxis.ticktext) == labels
    assert [note.text for note in figure.layout.annotations] == [
        "inputs (embed), rank 4 of 10",
        "answer (logits), rank 4 of 10",
    ]
    inputs, answer = [trace for trace in figure.data if trace.name == "without the key frequencies"]
    assert (inputs.yaxis, answer.yaxis) == ("y", "y2")
    for trace, site in ((inputs, "inputs"), (answer, "answer")):
        for i, ablation in enumerate(ablations.values()):
            n_right, n = int(ablation.sites[site].right_without.sum()), len(ablation.right)
            interval = proportion_interval(n_right, n)
            assert trace.x[i] == pytest.approx(n_right / n, abs=1e-4)
            assert trace.x[i] + trace.error_x.array[i] == pytest.approx(interval.high, abs=1e-3)
            assert trace.x[i] - trace.error_x.arrayminus[i] == pytest.approx(interval.low, abs=1e-3)
    random = [trace for trace in figure.data if trace.name.startswith("without random")][1]
    rates = ablations["train"].sites["answer"].right_without_random.double().mean(1)
    assert random.x[0] + random.error_x.array[0] == pytest.approx(float(rates.max()), abs=1e-3)
    chance = next(trace for trace in figure.data if trace.name == "chance")
    levels = [diagnosis.number("accuracy", split).control for split in ablations]
    assert [chance.x[3 * i] for i in range(len(levels))] == pytest.approx(levels, abs=1e-4)


def test_the_trig_share_has_its_interval_and_baseline(section):
    diagnosis, _, panels = section
    figure, parts = panels["Logits"]["trig_share"], diagnosis.measurements.decomposition
    (bars,) = figure.data
    assert [label.split("<br>")[0] for label in bars.y] == ["train", "test", "test_unmirrored"]
    assert list(bars.x) == pytest.approx([parts.splits[s].energy_share for s in list(parts.splits)[:3]], abs=1e-4)
    row = diagnosis.number("trig energy share", "test_unmirrored")
    assert bars.error_x.array[2] == pytest.approx(row.high - row.value) and bars.error_x.array[0] == 0
    assert figure.layout.shapes[0].x0 == parts.memoriser_baseline == 0
    assert "a pure memoriser there, 0.000" in title(figure)


def test_logit_maps_part_the_rest_by_training(section):
    _, exhibits, panels = section
    whole, generalising, trained, held_out = (np.array(t.z) for t in panels["Logits"]["logit_maps"].data)
    step = float(exhibits.logit_maps["whole"].abs().max()) / 120
    for drawn, name in ((whole, "whole"), (generalising, "generalising part")):
        assert np.abs(drawn - exhibits.logit_maps[name].numpy()).max() <= step / 2 + 1e-9
    mask = exhibits.in_training.numpy() > 0
    assert np.array_equal(np.isfinite(trained), mask) and np.array_equal(np.isfinite(held_out), ~mask)
    both = np.where(mask, trained, held_out)
    assert np.abs(both - exhibits.logit_maps["remaining part"].numpy()).max() <= step / 2 + 1e-9
    titles = [note.text for note in panels["Logits"]["logit_maps"].layout.annotations]
    assert f"(n = {mask.sum()})" in titles[2] and f"(n = {(~mask).sum()})" in titles[3]
    bar = panels["Logits"]["logit_maps"].layout.coloraxis
    assert bar.cmin == -bar.cmax == -float(exhibits.logit_maps["whole"].abs().max())


def test_a_map_of_logits_fits_a_byte_a_cell():
    """Fewer than 255 levels, evenly spaced: so a page packs it small."""
    maps = {"whole": 40 * torch.randn(30, 30, dtype=torch.float64)}
    maps["generalising part"] = maps["whole"] / 3
    maps["remaining part"] = maps["whole"] - maps["generalising part"]
    maps["whole"][0, 0] = torch.nan
    figure = logit_maps_figure(maps, in_training=torch.ones(30, 30, dtype=torch.float64), output="0")
    step = float(maps["whole"].nan_to_num().abs().max()) / 120
    for trace in figure.data[:3]:
        steps = np.array(trace.z)[np.isfinite(trace.z)] / step
        assert np.abs(steps - steps.round()).max() < 1e-9 and np.ptp(steps) <= 240
    nothing = {name: torch.zeros(3, 3, dtype=torch.float64) for name in maps}
    flat = logit_maps_figure(nothing, in_training=torch.zeros(3, 3, dtype=torch.float64), output="0")
    assert np.array(flat.data[0].z).tolist() == [[0.0] * 3] * 3


def test_attention_norms_and_efficiency_are_drawn_as_measured(section):
    _, exhibits, panels = section
    attention = panels["Lens and attention"]["attention"]
    assert np.array(attention.data[0].z)[0] == pytest.approx(exhibits.attention[:, 0, 0, 2].mean(0).numpy())
    assert list(attention.data[0].x) == ["a", "b", "="]
    assert f"n = {len(exhibits.queries)}, equal weights 0.333" in title(attention)
    assert "corroborates only" in title(panels["Lens and attention"]["lens"])
    norms = panels["Norms and efficiency"]["norms"].data[0]
    assert list(norms.y) == [*exhibits.norms.components, "all"]
    assert sum(x**2 for x in norms.x[:-1]) == pytest.approx(norms.x[-1] ** 2, rel=1e-2)
    logits, shares = panels["Norms and efficiency"]["efficiency"].data
    assert logits.x[0] == pytest.approx(exhibits.efficiency.correct_logit, abs=1e-4)
    assert list(shares.x) == pytest.approx(
        [exhibits.efficiency.collapsed_float32, exhibits.efficiency.collapsed_float64], abs=1e-4
    )
    assert f"n = {exhibits.efficiency.n}" in title(panels["Norms and efficiency"]["efficiency"])


def test_an_untrained_net_of_several_layers_is_drawn_too():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("circuit_lab.verdict.modular.diagnose.N_RESAMPLES", 10)
        task = build_task(ModularConfig(p=P, operation="a^2+ab+b^2", train_share=0.5, seed=1))
        net = make_net(d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=3, dtype=torch.float32)
        diagnosis = diagnose((net, task))
    panels = panel_figures(diagnosis, gather_exhibits(diagnosis, max_per_outcome=1))
    rows = panels["Frequencies"]["component_spectra"].data[0].y
    assert rows[0].startswith("attention 0, by result") and len(rows) == 8
    assert len(panels["Frequencies"]["key_frequencies"].layout.annotations) == 1  # its inputs have no frequencies
    assert len(panels["Lens and attention"]["attention"].data[0].y) == 9
