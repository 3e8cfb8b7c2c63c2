"""What all results of the verdicts share: a page that shows them."""

from pathlib import Path


class Reported:
    """A diagnosis, of a checkpoint or a run, or a comparison: what `circuit_lab.report` can show."""

    def report(self, path: str | Path, *, link_scripts: bool = False) -> Path:
        """Write it as one HTML page that opens without a network; a comparison brings both of its diagnoses.

        Args:
            path: File to write; parent folders are made.
            link_scripts: Put the script libraries (6 MB) into a folder beside the page instead of into it.

        Returns:
            The path written.
        """
        from circuit_lab.report import write_report  # upward on purpose: see the layer test

        return write_report([self], path, link_scripts=link_scripts)
