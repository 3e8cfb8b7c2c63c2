"""Which pairs of a modular task are trained on: our own draws, those of other codes, a list, or nobody knows.

A pair (a, b) of n elements has the *row-major index* a * n + b, for every operation. The schemes draw from the list of
the pairs that have an answer, in that order; for "a/b" the pairs with b = 0 have none and are left out before drawing.

| split | training pairs | how many of n at a share |
|---|---|---|
| ours | first of an order that a seed fixes on every machine (`stable_random`) | share * n, rounded up |
| python_shuffle | first of `random.seed(seed); random.shuffle(pairs)` | int(share * n) |
| torch_randperm | first of `torch.manual_seed(seed); torch.randperm(n)` | int(share * n) |
| listed | those given | |
| unknown | nobody knows | |

Sources: python_shuffle is `gen_train_test` of the code of Nanda et al. 2023 (arXiv 2301.05217), torch_randperm the
grokking demo of TransformerLens, whose data seed is 598; both with a share of 0.3 of the 113^2 pairs.
The two foreign orders are made by generators of their own, which give the numbers of the global ones and leave those
alone. int() rounds down in floating point, as those codes do.
"""

import io
import json
import random
import tokenize
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from circuit_lab.errors import InputError, short
from circuit_lab.tasks.safe_files import open_regular
from circuit_lab.tasks.stable_random import Purpose, permutation, rounded_share

Split = Literal["ours", "python_shuffle", "torch_randperm", "listed", "unknown"]
SPLITS: Mapping[Split, str] = MappingProxyType(
    {
        "ours": "drawn by circuit_lab; the share is rounded up",
        "python_shuffle": "the first pairs after python's random.seed(seed); random.shuffle(pairs); rounded down",
        "torch_randperm": "the first of torch.manual_seed(seed); torch.randperm(n); rounded down",
        "listed": "the pairs of train_pairs, by their row-major indices a * p + b",
        "unknown": "nobody knows which pairs were trained on",
    }
)
"""Every way to say which pairs are trained on, in words."""
DRAWN_SPLITS: tuple[Split, ...] = ("ours", "python_shuffle", "torch_randperm")
"""Those that take a share or a number, and a seed."""
INDEX_FILES = (".json", ".npy", ".txt")
MAX_INDEX_BYTES = 64 * 2**20
"""More than the indices of the largest task take in any of the formats."""
MAX_SEED = 2**63 - 1
"""The largest that every generator takes."""
_UNREADABLE = (ValueError, TypeError, KeyError, EOFError, MemoryError, OverflowError, RecursionError, SyntaxError)
"""What the parsers of json and numpy raise on bytes that are not theirs, beside tokenize.TokenError."""


def n_from_share(split: Split, share: float, n_pairs: int) -> int:
    """Number of training pairs that a scheme makes of a share.

    Args:
        split: One of `DRAWN_SPLITS`.
        share: In (0, 1).
        n_pairs: Pairs that have an answer.

    Returns:
        A number in [0, n_pairs].

    >>> n_from_share("ours", 0.3, 12769), n_from_share("python_shuffle", 0.3, 12769)
    (3831, 3830)
    """
    return rounded_share(share, n_pairs) if split == "ours" else int(share * n_pairs)


def drawn_rows(split: Split, n_pairs: int, n_train: int, *, seed: int) -> Int[Tensor, " n_train"]:
    """The training pairs of a scheme that draws them.

    Args:
        split: One of `DRAWN_SPLITS`.
        n_pairs: Pairs that have an answer.
        n_train: How many are trained on.
        seed: The scheme's seed, in [0, MAX_SEED].

    Returns:
        Their places in the row-major list of the pairs that have an answer, in the order drawn.
    """
    if split == "ours":
        order = torch.from_numpy(permutation(n_pairs, seed=seed, purpose=Purpose.TRAIN_PAIRS))
    elif split == "torch_randperm":
        order = torch.randperm(n_pairs, generator=torch.Generator().manual_seed(seed))
    else:
        assert split == "python_shuffle", f"{split} draws nothing"
        shuffled = list(range(n_pairs))
        random.Random(seed).shuffle(shuffled)
        order = torch.tensor(shuffled)
    return order[:n_train]


def check_indices(indices: Sequence[int], *, n_elements: int, allows_zero: bool) -> None:
    """Refuse a list of training pairs that is none.

    Args:
        indices: Row-major indices, ascending.
        n_elements: Values of a and of b.
        allows_zero: Whether pairs with b = 0 have an answer; those of "a/b" have none.

    Raises:
        ValueError: If an index is out of range, given twice or without an answer, or if all or no pairs are listed.
    """
    n_grid = n_elements**2
    n_pairs = n_grid if allows_zero else n_grid - n_elements
    outside = next((i for i in indices if not 0 <= i < n_grid), None)
    if outside is not None:
        raise ValueError(f"train_pairs holds {outside}; the indices a * {n_elements} + b reach from 0 to {n_grid - 1}")
    twice = next((i for i, following in pairwise(indices) if i == following), None)
    if twice is not None:
        raise ValueError(f"train_pairs holds {twice} more than once; list each training pair once")
    without_answer = next((i for i in indices if not allows_zero and i % n_elements == 0), None)
    if without_answer is not None:
        raise ValueError(
            f'train_pairs holds {without_answer}, which is the pair a = {without_answer // n_elements}, b = 0; "a/b" '
            "leaves out b = 0: list other pairs"
        )
    if not 0 < len(indices) < n_pairs:
        raise ValueError(
            f"train_pairs lists {len(indices)} of {n_pairs} pairs; list at least one, and hold at least one out "
            '(where it is not known which were trained on, give split = "unknown" instead)'
        )


def read_train_pairs(path: Path) -> tuple[int, ...]:
    """Row-major indices of training pairs, from a file.

    Args:
        path: A `.json` list, a one-dimensional integer `.npy` array, or a `.txt` file with one index a line.

    Returns:
        The indices, in the file's order.

    Raises:
        InputError: If there is no such file, it is of another kind, or it does not hold integers.
    """
    if path.suffix not in INDEX_FILES:
        raise InputError(f"train_pairs file {path}: a file of indices ends in one of: {', '.join(INDEX_FILES)}")
    with open_regular(path, what="train_pairs file", max_bytes=MAX_INDEX_BYTES) as file:
        content = file.read(MAX_INDEX_BYTES)
    try:
        values = _parse_indices(content, path.suffix)
    except (*_UNREADABLE, tokenize.TokenError) as error:
        raise InputError(
            f"train_pairs file {path} is no {path.suffix} file of integers: {short(error, 100)}"
        ) from error
    strange = next((value for value in values if type(value) is not int), None)
    if strange is not None:
        raise InputError(
            f"train_pairs file {path} holds {short(repr(strange), 100)}, which is no integer; list row-major indices "
            "a * p + b"
        )
    return tuple(values)


def _parse_indices(content: bytes, kind: str) -> list[Any]:
    """The entries of a file of indices, whatever they are."""
    if kind == ".json":
        values = json.loads(content)
        if not isinstance(values, list):
            raise ValueError(f"its top level is a {type(values).__name__}, not a list")
        return values
    if kind == ".npy":
        # Not np.load, which would also open archives.
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ValueError(f"it holds {array.dtype} of shape {list(array.shape)}, not integers in one dimension")
        return array.tolist()
    return [int(line) for line in content.decode().split()]
