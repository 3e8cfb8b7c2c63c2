"""Shape annotations are checked while the tests run, and only then."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

install_import_hook("circuit_lab", "beartype.beartype")

import hypothesis  # noqa: E402
import pytest  # noqa: E402
from chromium import browser  # noqa: E402, F401  (a fixture)

hypothesis.settings.register_profile("no_deadline", deadline=None)  # a busy machine is no error of ours
hypothesis.settings.load_profile("no_deadline")


def pytest_terminal_summary(terminalreporter):
    """Show what tests measured or counted: their `record_property("shown", line)`, from every worker."""
    reports = [report for of_kind in terminalreporter.stats.values() for report in of_kind]
    properties = [
        pair for report in reports if isinstance(report, pytest.TestReport) for pair in report.user_properties
    ]
    lines = sorted({value for name, value in properties if name == "shown"})
    if lines:
        terminalreporter.section("measured and counted")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture(scope="session", autouse=True)
def fewer_resamples(pytestconfig):
    """The fast suite resamples 200 times, for shapes are checked in each; the slow one and single tests as users do."""
    with pytest.MonkeyPatch.context() as patched:
        if pytestconfig.option.markexpr.startswith("not slow"):
            patched.setattr("circuit_lab.verdict.modular.diagnose.N_RESAMPLES", 200)
            patched.setattr("circuit_lab.verdict.two_hop.diagnose.N_RESAMPLES", 200)
        yield


@pytest.fixture(scope="session")
def small_task():
    """Twenty entities, eight relations, a third of the facts OOD: 154 `test_ood` queries, built in milliseconds."""
    from circuit_lab.tasks import TwoHopConfig, build_task

    return build_task(
        TwoHopConfig(n_entities=20, n_relations=8, out_degree=8, ood_share=0.34, test_id_share=0.15, seed=3)
    )


@pytest.fixture(scope="module")
def noisy_circuit(small_task):
    """A circuit damaged by weight noise, so that tests pass for some queries and fail for others."""
    import torch

    from circuit_lab.nets.controls.two_hop import fact_table_read_twice

    net = fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.006 * torch.randn(parameter.shape, generator=generator)
    return net
