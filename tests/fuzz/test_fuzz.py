"""Damaged files of every kind: they are loaded, or refused with an InputError of one line; nothing else comes out."""

import importlib.util
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fuzz_counts import Counts, limited
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from targets import TARGETS, seeds

from circuit_lab.importers import IMPORTERS, load

FAST = dict.fromkeys(TARGETS, 30) | {"recipe": 150, "setting": 100, "metrics": 100, "dataset_folder": 60}
N_SLOW = 2000
ATHERIS_SECONDS = 20
DATA = st.binary(min_size=40, max_size=40)


@pytest.mark.parametrize("name", IMPORTERS)
def test_every_dialect_is_damaged_from_a_file_that_loads(name, tmp_path):
    path = seeds().gpt2
    if name != "gpt2-folder":
        seed, path = seeds().foreign[name], tmp_path / "theirs.pt"
        torch.save(seed.content, path)
        if seed.settings is not None:
            (tmp_path / "config.json").write_text(json.dumps(seed.settings))
    assert load(path).origin.format == name


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("n", ["few", pytest.param("many", marks=pytest.mark.slow)])
def test_only_input_errors_come_out(name, n, record_property):
    """With hypothesis, which shortens what it finds; then as many again from a plain random source."""
    counts = Counts(name)
    is_fast = n == "few"
    n_examples = FAST[name] if is_fast else N_SLOW

    @settings(max_examples=n_examples // 3, derandomize=is_fast, database=None, suppress_health_check=list(HealthCheck))
    @example(b"")
    @given(DATA)
    def run(data):
        counts.try_one(TARGETS[name], data)

    rng = random.Random(n_examples)
    with limited():
        run()
        for _ in range(n_examples - n_examples // 3):
            data = rng.randbytes(60)
            try:
                counts.try_one(TARGETS[name], data)
            except BaseException as error:
                error.add_note(f"found by TARGETS[{name!r}]({data!r})")
                raise
    record_property("shown", str(counts))
    assert counts.messages, "none was refused: the damage does no harm"
    assert counts.loaded > 0 or n_examples < 100, "none was loaded: the damage never gets past the first check"


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed (pip install atheris)"
)
@pytest.mark.parametrize("name", TARGETS)
def test_only_input_errors_come_out_of_what_coverage_guides_to(name, tmp_path, record_property):
    rng, corpus, counts = random.Random(0), tmp_path / "corpus", tmp_path / "counts.txt"
    corpus.mkdir()
    for index in range(20):
        (corpus / f"seed-{index}").write_bytes(rng.randbytes(40))
    command = [sys.executable, str(Path(__file__).with_name("run_atheris.py")), name, str(counts), str(corpus)]
    command += [f"-max_total_time={ATHERIS_SECONDS}", "-max_len=120", "-timeout=60", "-rss_limit_mb=6000"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert found.returncode == 0, found.stderr[-4000:]
    n_runs = re.search(r"Done (\d+) runs", found.stderr)
    assert n_runs is not None and int(n_runs[1]) > 20, found.stderr[-2000:]
    record_property("shown", f"atheris, {ATHERIS_SECONDS} s, {n_runs[0]}: {counts.read_text()}")
