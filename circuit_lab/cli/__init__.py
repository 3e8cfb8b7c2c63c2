"""The `circuit-lab` command: parse, call, print. Torch is imported by the commands that need it, never by `--help`."""

import typer

from circuit_lab.cli.calibrate import EPILOG as CALIBRATE_EPILOG
from circuit_lab.cli.calibrate import calibrate_command
from circuit_lab.cli.compare import EPILOG as COMPARE_EPILOG
from circuit_lab.cli.compare import compare_command
from circuit_lab.cli.diagnose import EPILOG as DIAGNOSE_EPILOG
from circuit_lab.cli.diagnose import diagnose_command
from circuit_lab.cli.export import EPILOG as EXPORT_EPILOG
from circuit_lab.cli.export import export_command
from circuit_lab.cli.importing import EPILOG as IMPORT_EPILOG
from circuit_lab.cli.importing import import_command
from circuit_lab.cli.report import EPILOG as REPORT_EPILOG
from circuit_lab.cli.report import report_command
from circuit_lab.cli.reproduce import EPILOG as REPRODUCE_EPILOG
from circuit_lab.cli.reproduce import reproduce_command
from circuit_lab.cli.sweep import EPILOG as SWEEP_EPILOG
from circuit_lab.cli.sweep import sweep_command
from circuit_lab.cli.train import EPILOG as TRAIN_EPILOG
from circuit_lab.cli.train import train_command

app = typer.Typer(
    name="circuit-lab",
    help="Did this checkpoint learn the algorithm, or does it only look like it?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("calibrate", epilog=CALIBRATE_EPILOG)(calibrate_command)
app.command("diagnose", epilog=DIAGNOSE_EPILOG)(diagnose_command)
app.command("report", epilog=REPORT_EPILOG)(report_command)
app.command("compare", epilog=COMPARE_EPILOG)(compare_command)
app.command("train", epilog=TRAIN_EPILOG)(train_command)
app.command("sweep", epilog=SWEEP_EPILOG)(sweep_command)
app.command("reproduce", epilog=REPRODUCE_EPILOG)(reproduce_command)
app.command("import", epilog=IMPORT_EPILOG)(import_command)
app.command("export", epilog=EXPORT_EPILOG)(export_command)


def main() -> None:
    """Run the command line."""
    app()
