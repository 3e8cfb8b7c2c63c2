"""One target under atheris, coverage-guided: `run_atheris.py TARGET COUNTS CORPUS [libFuzzer options]`.

libFuzzer ends the process without a word to Python, so the counts are written to a file after every input.
"""

import sys
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "support")]
with atheris.instrument_imports(include=["circuit_lab"]):
    import fuzz_counts
    import targets


def main() -> None:
    """Fuzz until libFuzzer's options say stop; the counts go to a file."""
    name, file, options = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    counts, target = fuzz_counts.Counts(name), targets.TARGETS[name]
    targets.seeds()

    def one_input(data: bytes) -> None:
        try:
            counts.try_one(target, data)
        finally:
            file.write_text(str(counts))

    atheris.Setup([sys.argv[0], *options], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
