"""Recipes: strict TOML that says everything a training run depends on."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from circuit_lab.errors import InputError, quoted, short
from circuit_lab.nets import NET_CONFIGS, NetConfig
from circuit_lab.tasks import TASKS, ModularConfig, TaskConfig
from circuit_lab.tasks.safe_files import file_kind, open_regular
from circuit_lab.training.losses import LossName

_FROM_TASK = ("d_vocab", "d_vocab_out", "n_ctx")
_MAX_BYTES = 2**20
_MAX_PROBLEMS, _MAX_SHOWN, _MAX_MESSAGE = 10, 200, 1000
"""How many mistakes one message lists, and how much of a wrong value it shows."""
_MAX_SCHEDULED = 1_000_000
_MAX_SEED = 2**63 - 1
"""The largest integer that every TOML reader takes."""
_DecayRate = Annotated[float, Field(ge=0, lt=1)]
PartName = Literal["embedding", "attention", "position_mlp", "mlp", "norm", "unembedding"]
"""Parts of a net that can be trained alone."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class About(_Table):
    """What the run is, for people.

    Attributes:
        title: One line.
        description: A few sentences.
    """

    title: str = ""
    description: str = ""


class ParentRecipe(_Table):
    """The checkpoint whose weights a run starts from; its optimiser state is not continued.

    What is left out is filled in when the run starts; what is given must be true of the checkpoint.

    Attributes:
        checkpoint: A checkpoint file, a run folder or a reference model's name or folder.
        weights_hash: SHA-256 of its weights, which tells it from another one at the same place.
        step: Optimiser steps it was trained for.
        accuracy: Its accuracy by split, on its own task.
    """

    checkpoint: str
    weights_hash: str | None = None
    step: int | None = None
    accuracy: dict[str, float] | None = None


class OptimizerRecipe(_Table):
    """AdamW with a linear warm-up, then a constant rate; what keeps the weights small, or their norm fixed.

    Attributes:
        learning_rate: After the warm-up.
        weight_decay: Decoupled decay of weight matrices and embeddings; biases and norm scales are not decayed.
        l1: Of the same weights, this times the sum of absolute values is part of what is minimised; the loss that is
            logged is without it.
        l2: Likewise half of this times the sum of squares: weight decay that passes through AdamW's moments.
        fixed_norm: Whether all trained weights are scaled after each step to the Euclidean norm that they began with
            (Liu, Michaud and Tegmark 2023, arXiv 2210.01117).
        betas: Decay rates of the two moment estimates, in [0, 1).
        eps: Added to the denominator.
        warmup_steps: Steps over which the rate rises linearly.
        max_gradient_norm: Gradients are scaled down to this Euclidean norm over all trained weights; 0 means never.
            Without it small nets at a constant rate lose what they have learnt every few thousand steps, and relearn
            it.
        only: The parts of the net that are trained; the others stay what they were, bit by bit, and do not decay. Left
            out, all are. "embedding" is that of tokens, positions and prefix; "norm" the norms' scales and biases;
            "position_mlp" a recursive net's MLP over positions.
    """

    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.5, ge=0)
    l1: float = Field(default=0.0, ge=0)
    l2: float = Field(default=0.0, ge=0)
    fixed_norm: bool = False
    betas: Annotated[tuple[_DecayRate, _DecayRate], Field(strict=False)] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    warmup_steps: int = Field(default=200, ge=0, le=10**9)
    max_gradient_norm: float = Field(default=1.0, ge=0)
    only: Annotated[tuple[PartName, ...], Field(strict=False, min_length=1)] | None = None


class TrainingRecipe(_Table):
    """How long and on what.

    Attributes:
        n_steps: Optimiser steps.
        batch_size: Items per step, drawn with replacement from all training items; "full" takes each item once.
        seed: Fixes the batches; the net's and the task's seeds stand in their own tables.
        dtype: Type of weights and arithmetic.
        loss: How logits become the answer's probability: "cross_entropy" by softmax, "stablemax" by that of Prieto et
            al. 2025 (arXiv 2501.04697), whose probabilities do not round to 1.
        loss_dtype: Type in which the loss is computed. In float32 training stalls once the answer's probability rounds
            to 1 ("softmax collapse": the same paper).
        logit_scale: The loss is that of the logits times this, an inverse temperature; so are logged losses. With a
            norm that is fixed it says how much of it a given loss needs.
        ema_decay: Decay per step of an exponential moving average of the weights, in [0, 1); 0 means none. With one,
            evaluation and checkpoints are of the averaged weights, and only the resume state holds both.
        precision: Arithmetic of the matrix products in a training step. "float32"; "tf32" (NVIDIA GPUs: 10 bits of
            mantissa, sums in float32); "bf16" (bfloat16 in the forward pass and its gradients). The weights stay
            float32, and evaluation and checkpoints are computed in it.
        compile: Whether the forward pass and the loss go through torch.compile, which takes a minute at the start.
        cuda_graphs: Whether the compiled step is replayed as CUDA graphs, which spares the launch of each kernel.
        n_threads: CPU threads. One is fastest for small nets, and fixing it makes runs repeatable bit by bit.
        resume_every: Steps between saves of the resume state.
    """

    n_steps: int = Field(ge=1, le=10**9)
    batch_size: Annotated[int, Field(ge=1, le=2**18)] | Literal["full"] = 128
    seed: int = Field(default=0, ge=0, le=_MAX_SEED)
    dtype: Literal["float32", "float64"] = "float32"
    loss: LossName = "cross_entropy"
    loss_dtype: Literal["float32", "float64"] = "float32"
    logit_scale: float = Field(default=1.0, gt=0)
    ema_decay: _DecayRate = 0.0
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    compile: bool = False
    cuda_graphs: bool = False
    n_threads: int = Field(default=1, ge=1, le=1024)
    resume_every: int = Field(default=500, ge=1)

    @model_validator(mode="after")
    def _settings_agree(self) -> "TrainingRecipe":
        if self.precision != "float32" and self.dtype != "float32":
            raise ValueError(
                f'training.precision = "{self.precision}" shortens float32 numbers, but training.dtype = '
                f'"{self.dtype}"; set one of the two to "float32"'
            )
        if self.cuda_graphs and not self.compile:
            raise ValueError(
                "training.cuda_graphs = true replays the compiled step, but training.compile = false; set "
                "training.compile = true"
            )
        return self


class Schedule(_Table):
    """Steps at which something is done; the last step is always one of them.

    Attributes:
        spacing: "linear": every `every` steps. "log": about `n_points` steps evenly spaced in log(step).
        every: Distance of the linear schedule.
        n_points: Number of points of the log schedule.
    """

    spacing: Literal["linear", "log"] = "linear"
    every: int = Field(default=1000, ge=1)
    n_points: int = Field(default=30, ge=2, le=_MAX_SCHEDULED)

    def steps(self, n_steps: int) -> frozenset[int]:
        """The scheduled steps of a run.

        >>> sorted(Schedule(every=4).steps(10))
        [4, 8, 10]
        >>> sorted(Schedule(spacing="log", n_points=4).steps(1000))
        [1, 10, 100, 1000]
        """
        if self.spacing == "linear":
            return frozenset(range(self.every, n_steps + 1, self.every)) | {n_steps}
        points = range(self.n_points)
        return frozenset(round(n_steps ** (point / (self.n_points - 1))) for point in points)


class Recipe(BaseModel):
    """A whole run.

    Attributes:
        about: Title and description.
        parent: The checkpoint to start from; left out, the initial weights are the net's own.
        task: What is learnt.
        net: The net's config without what the task fixes (vocabulary sizes and positions).
        optimizer: AdamW.
        training: Steps, batches, seed.
        evaluation: When every split is evaluated; also before the first step.
        checkpoints: When a checkpoint is kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: About = About()
    parent: ParentRecipe | None = None
    task: TaskConfig
    net: dict[str, Any]
    optimizer: OptimizerRecipe = OptimizerRecipe()
    training: TrainingRecipe
    evaluation: Schedule = Schedule(every=500)
    checkpoints: Schedule = Schedule(every=5000)

    @field_validator("task")
    @classmethod
    def _check_trainable(cls, task: TaskConfig) -> TaskConfig:
        """Refuse a task whose training items nobody knows."""
        if isinstance(task, ModularConfig) and task.n_training_pairs is None:
            raise ValueError(
                f'task.split = "{task.split}" leaves nothing to train on; give train_share or n_train, or list the '
                "training pairs in train_pairs"
            )
        return task

    @field_validator("net")
    @classmethod
    def _check_net(cls, net: dict[str, Any]) -> dict[str, Any]:
        """Refuse what the task fixes, then let the net's own config check the rest."""
        for key in _FROM_TASK:
            if key in net:
                raise ValueError(
                    f"net.{key} follows from the task; leave it out (got {short(repr(net[key]), _MAX_SHOWN)})"
                )
        for key in (key for key, value in net.items() if value is None):
            raise ValueError(
                f"net.{short(key, _MAX_SHOWN)} is null, which TOML cannot say; leave it out, or write "
                '"none" for no norm'
            )
        _config_class(net)(**net, d_vocab=1, n_ctx=1)
        return net

    @model_validator(mode="after")
    def _check_schedules(self) -> "Recipe":
        """Refuse what would take memory without end."""
        for name, schedule in (("evaluation", self.evaluation), ("checkpoints", self.checkpoints)):
            n = self.training.n_steps // schedule.every if schedule.spacing == "linear" else schedule.n_points
            if n > _MAX_SCHEDULED:
                raise ValueError(
                    f"{name}.every = {schedule.every} is too small for {self.training.n_steps} steps: it gives {n} "
                    f"points, and at most {_MAX_SCHEDULED} are kept"
                )
        return self

    def net_config(self, *, d_vocab: int, d_vocab_out: int, n_ctx: int) -> NetConfig:
        """The net's whole config for a task of that size."""
        return _config_class(self.net)(**self.net, d_vocab=d_vocab, d_vocab_out=d_vocab_out, n_ctx=n_ctx)

    def to_toml(self) -> str:
        """The recipe with every default spelt out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def _config_class(net: dict[str, Any]) -> type[NetConfig]:
    """The class of a net's config; a table without `kind` is a shared transformer's."""
    kind = net.get("kind", "shared_transformer")
    if not isinstance(kind, str) or kind not in NET_CONFIGS:
        raise ValueError(
            f"net.kind: unknown kind {short(repr(kind), _MAX_SHOWN)}; the kinds are: {', '.join(NET_CONFIGS)}"
        )
    return NET_CONFIGS[kind]


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from TOML.

    Args:
        path: A TOML file.
        overrides: `key=value` settings with dotted keys and TOML values, such as `training.n_steps=100`.

    Returns:
        The recipe, checked.

    A file that is missing or malformed and a key or value that is not allowed are each an InputError that says which,
    and what is allowed.
    """
    tables = read_tables(path)
    for override in overrides:
        _apply(tables, override)
    return parse_recipe(tables, source=str(path))


def read_tables(path: str | Path) -> dict[str, Any]:
    """The tables of a recipe file, unchecked.

    Args:
        path: A TOML file.

    Returns:
        The tables.

    Raises:
        InputError: If the file is missing or is not TOML.
    """
    path = Path(path)
    if file_kind(path, what="recipe") == "folder":
        raise InputError(f"no recipe at {path}: it is a folder; give the .toml file in it")
    with open_regular(path, what="recipe", max_bytes=_MAX_BYTES) as file:
        content = file.read()
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError and a UnicodeDecodeError are ValueErrors, too
        raise InputError(f"{path} is not valid TOML: {short(error, _MAX_SHOWN)}") from error


def parse_recipe(tables: dict[str, Any], *, source: str) -> Recipe:
    """Check the tables of a recipe.

    Args:
        tables: As read from TOML.
        source: Where they come from, for messages.

    Returns:
        The recipe.

    Raises:
        InputError: If a key or value is not allowed.
    """
    try:
        return Recipe.model_validate(tables)
    except ValidationError as error:
        details = error.errors()
        problems = "; ".join(_problem(detail, tables) for detail in details[:_MAX_PROBLEMS])
        if len(details) > _MAX_PROBLEMS:
            problems += f"; and {len(details) - _MAX_PROBLEMS} more"
        raise InputError(f"recipe {source}: {problems}") from error


def _problem(detail: Any, tables: dict[str, Any]) -> str:
    """One validation error as `key: what is wrong (got value)`, with the valid keys when the key is unknown."""
    # pydantic adds the branch it took: the task's kind, or the type of a value that may have several.
    parts = (str(part) for part in detail["loc"] if part not in TASKS)
    place = [part for part in parts if not part.startswith(("constrained-", "literal["))]
    key, message = ".".join(place), detail["msg"].removeprefix("Value error, ").replace("\n", " ")
    if detail["type"] == "extra_forbidden":
        return f"unknown key {quoted(key)}; valid keys are: {', '.join(_valid_keys(place, tables))}"
    if detail["type"] == "missing":
        return f"{key} is missing"
    if detail["type"] == "union_tag_invalid":
        tag, kinds = detail["ctx"]["tag"], detail["ctx"]["expected_tags"]
        return f"{key}.kind: unknown kind {quoted(tag)}; the kinds are: {kinds}"
    if detail["type"] == "value_error":
        return short(message, _MAX_MESSAGE)
    return f"{key}: {message} (got {short(repr(detail['input']), _MAX_SHOWN)})"


def _valid_keys(place: list[str], tables: dict[str, Any]) -> list[str]:
    """The keys that a recipe allows where it has an unknown one."""
    if len(place) == 1:
        return list(Recipe.model_fields)
    if place[0] == "net":
        return [key for key in _config_class(tables["net"]).model_fields if key not in _FROM_TASK]
    annotation = Recipe.model_fields[place[0]].annotation
    table = next(part for part in (*get_args(annotation), annotation) if isinstance(part, type))
    assert issubclass(table, BaseModel), f"table {place[0]} lists its own keys"
    return list(table.model_fields)


def _apply(tables: dict[str, Any], override: str) -> None:
    """Set one `key=value` in the tables; a value that is no TOML is taken as a string."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {quoted(override)} is not key=value; write for example --set training.n_steps=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    set_key(tables, key, value, source=f"--set {quoted(override)}")


def dotted_keys(tables: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted key -> value of everything in nested tables.

    >>> dotted_keys({"task": {"p": [7, 11]}, "net.d_model": 8})
    {'task.p': [7, 11], 'net.d_model': 8}
    """
    flat = {}
    for key, value in tables.items():
        flat |= dotted_keys(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


def set_key(tables: dict[str, Any], key: str, value: Any, *, source: str) -> None:
    """Set one dotted key in the tables of a recipe.

    Args:
        tables: Are changed.
        key: Such as "training.n_steps".
        value: What it is set to.
        source: Who asks, for messages.

    Raises:
        InputError: If the key leads through something that is no table.
    """
    *parents, last = key.split(".")
    table = tables
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise InputError(f"{source}: {quoted(parent)} is a value, not a table, so it has no key {quoted(last)}")
    table[last] = value
