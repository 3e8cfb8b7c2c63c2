"""The model card of a checkpoint: what it is, how accurate, where from, and what accuracy does not say.

Whatever comes out of a checkpoint (names of splits, tasks, files) is untrusted: it is written so that neither Markdown
nor HTML in it has any effect.
"""

from collections.abc import Iterator

from huggingface_hub import ModelCardData

from circuit_lab.tasks import NaturalLanguageConfig, TwoHopFolderConfig
from circuit_lab.training import Checkpoint

LIBRARY = "circuit_lab"
_PLAIN = frozenset(" ,-=+%;/")
_MAX_LENGTH = 300
_NO_DIAGNOSIS = (
    "**Accuracy is not a diagnosis.** A net that has learnt its queries by heart, or a shortcut, can be as accurate on "
    "some splits as one that has learnt the algorithm. What this one does is found by intervening on it:"
)


def model_card(checkpoint: Checkpoint, *, repo_id: str | None = None) -> str:
    """The card in Markdown, with YAML front matter as the Hub reads it; the license is left to whoever shares it.

    Args:
        checkpoint: The checkpoint.
        repo_id: Where it will be on the Hub, "user/name"; None if that is not known yet.

    Returns:
        The text of `README.md`.
    """
    front = ModelCardData(library_name=LIBRARY, tags=["mechanistic-interpretability", "grokking", "transformer-lens"])
    place = repo_id or "PATH OF THIS FOLDER, OR user/name"
    sections = [
        f"---\n{front.to_yaml()}\n---",
        f"# {escape(repo_id.rpartition('/')[2]) if repo_id else 'A circuit_lab checkpoint'}",
        "\n".join(_facts(checkpoint)),
        "## Accuracy",
        _accuracy_table(checkpoint),
        f"{_NO_DIAGNOSIS}\n\n```\ncircuit-lab diagnose weights.safetensors\n```",
        "## Load",
        f'```python\nimport circuit_lab\ncheckpoint = circuit_lab.from_pretrained("{place}")\n```',
    ]
    config = getattr(checkpoint.given_task, "config", None)
    if isinstance(config, NaturalLanguageConfig) and config.path:
        sections.append("Its file of questions is not part of this repository: give the same file as its task.")
    if isinstance(config, TwoHopFolderConfig):
        sections.append(
            "Its dataset folder is not part of this repository: add "
            '`task=circuit_lab.tasks.read_dataset_folder("DATASET FOLDER")`.'
        )
    if checkpoint.origin is not None:
        sections += ["## Origin", "\n".join(_origin(checkpoint))]
    return "\n\n".join(sections) + "\n"


def escape(text: str) -> str:
    """Text of unknown origin as inert Markdown: one line, punctuation as character references, at most 300 characters.

    >>> escape("p = 7")
    'p = 7'
    >>> escape("<b>")
    '&#60;b&#62;'
    """
    shown = text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 3]}..."
    shown = "".join(char if char.isprintable() else " " for char in shown)
    return "".join(char if char.isalnum() or char in _PLAIN else f"&#{ord(char)};" for char in shown)


def _facts(checkpoint: Checkpoint) -> Iterator[str]:
    """One line each for task, net, step and hash."""
    task = checkpoint.given_task
    yield f"- Task: {escape(str(task)) if task is not None else 'not known'}"
    yield f"- Net: {escape(checkpoint.net.cfg.in_words)}"
    yield f"- Parameters: {sum(parameter.numel() for parameter in checkpoint.net.parameters())}"
    yield f"- Step: {checkpoint.step}"
    yield f"- SHA-256 of the weights: {escape(checkpoint.weights_hash)}"


def _accuracy_table(checkpoint: Checkpoint) -> str:
    """Accuracy of each split beside chance and number of queries."""
    if not checkpoint.metrics:
        return "Not evaluated."
    task = checkpoint.given_task
    rows = ["| split | accuracy | chance | n |", "|---|---|---|---|"]
    for name, accuracy in checkpoint.metrics.items():
        chance, n = "not known", "not known"
        if task is not None and name in task.chance:
            chance = f"{task.chance[name]:.3f}"
        if task is not None and name in task.splits:
            n = str(len(task.splits[name]))
        elif task is not None and name == "training":
            n = str(len(task.training))
        rows.append(f"| {escape(name)} | {accuracy:.3f} | {chance} | {n} |")
    return "\n".join(rows)


def _origin(checkpoint: Checkpoint) -> Iterator[str]:
    """Where a foreign checkpoint comes from, and what its import chose."""
    origin = checkpoint.origin
    assert origin is not None
    yield f"Imported from {escape(origin.file)} (format {escape(origin.format)}).\n"
    yield from (f"- Inferred: {escape(sentence)}" for sentence in origin.inferred)
    yield from (f"- Ignored: {escape(sentence)}" for sentence in origin.ignored)
