"""Imports point one way: the layers of docs/index.md, and what `import circuit_lab` may load."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import circuit_lab

PACKAGE = Path(circuit_lab.__file__).parent
LAYERS = [
    {"errors"},
    {"tasks", "nets"},
    {"training", "measures"},
    {"verdict", "importers", "sweeps"},
    {"report", "exporters"},
    {"studies"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# A Diagnosis can write itself as a page (`diagnosis.report(path)`), and results, checkpoints, runs and comparisons show
# themselves in a notebook: the calls that point upwards. They are late imports inside those methods, so that what is
# shown never needs the plots.
DECLARED_UPWARD = {
    ("measures/result.py", "report"),
    ("training/checkpoint.py", "report"),
    ("verdict/comparison/compare.py", "report"),
    ("verdict/diagnosis.py", "report"),
    ("verdict/reported.py", "report"),
    ("verdict/runs/run_diagnosis.py", "report"),
}


def imported_subpackages(path: Path) -> set[str]:
    """Sub-packages of circuit_lab that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules = [node.module] if node.module != "circuit_lab" else [f"circuit_lab.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        found |= {m.split(".")[1] for m in modules if m.startswith("circuit_lab.")}
    return found


def upward_imports(path: Path, home: str) -> list[str]:
    """Sub-packages that a file of `home` imports although they stand beside or above it."""
    name = path.relative_to(PACKAGE).as_posix()
    return [
        other
        for other in sorted(imported_subpackages(path))
        if other != home and LEVEL[other] >= LEVEL[home] and (name, other) not in DECLARED_UPWARD
    ]


SUBPACKAGES = sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py"))


@pytest.mark.parametrize("home", SUBPACKAGES)
def test_imports_point_downwards(home):
    files = list((PACKAGE / home).rglob("*.py"))
    wrong = {str(file): upward_imports(file, home) for file in files if upward_imports(file, home)}
    assert wrong == {}


def test_every_subpackage_has_a_level():
    assert {"tasks", "nets", "training", "measures", "verdict", "report", "cli"} <= set(SUBPACKAGES) <= set(LEVEL)


def test_the_layer_check_sees_an_upward_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    wrong = tmp_path / "nets.py"
    wrong.write_text("def f():\n    from circuit_lab.verdict import diagnose\n    import circuit_lab.tasks\n")
    assert upward_imports(wrong, "nets") == ["tasks", "verdict"]


@pytest.mark.parametrize("statement", ["import circuit_lab; dir(circuit_lab)", "import circuit_lab.cli"])
def test_import_loads_neither_torch_nor_transformer_lens(statement):
    code = f"import sys; {statement}; print(sorted({{'torch', 'transformer_lens', 'pandas'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_diagnosis_loads_no_bridge_and_no_plots():
    """TransformerLens's bridges take longer to import than a small diagnosis takes; what shows them loads late."""
    code = (
        "import sys; sys.argv = ['circuit-lab', 'diagnose', 'modular-memorising', '--json']\n"
        "from circuit_lab.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        "slow = {'transformer_lens.model_bridge', 'plotly'}\n"
        "print(sorted(slow & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]" and '"memorising"' in result.stdout


@pytest.mark.slow
def test_a_report_loads_no_bridge():
    code = (
        "import sys; import circuit_lab.verdict.exhibits, circuit_lab.report.circuit_diagram\n"
        "import circuit_lab.report.page, circuit_lab.report.panels, circuit_lab.report.query_explorer\n"
        "print('transformer_lens.model_bridge' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.slow
def test_measures_load_no_figures():
    code = (
        "import sys; from circuit_lab.measures import LogitLens, Ablation, ToyModelRun\n"
        "print(sorted({'circuit_lab.report', 'plotly'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_loads_neither_torch_nor_transformer_lens():
    code = (
        "import sys; sys.argv = ['circuit-lab', '--help']\n"
        "from circuit_lab.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        "assert not {'torch', 'transformer_lens'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "diagnose" in result.stdout and "train" in result.stdout


PACKAGES_WITH_LAZY_NAMES = [circuit_lab, circuit_lab.measures, circuit_lab.report.figures]


@pytest.mark.parametrize("package", PACKAGES_WITH_LAZY_NAMES, ids=lambda package: package.__name__)
def test_public_names_all_load(package):
    assert len(package.__all__) > 20
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match=f"No {package.__name__} attribute diagnos"):
        _ = package.diagnos


def test_a_measure_that_shares_its_modules_name_is_the_function():
    import_module("circuit_lab.measures.modular.efficiency_row")  # must not put the module in the function's place
    assert callable(circuit_lab.measures.efficiency_row)
