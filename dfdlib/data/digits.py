"""Real handwritten digits in pairs: two instances of one digit are two views of it."""

from functools import cache
from typing import Literal, get_args

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

from dfdlib.data.cohort import Cohort
from dfdlib.errors import unknown

Part = Literal["train", "test"]

VIEWS = ("first", "second")
SIDE = 8
SIZES = (8, 16, 32)
TEST_SHARE = 0.3
MAX_N = 10**9
MAX_SEED = 2**31 - 1


def load(*, n: int = 4_000, part: Part | str = "train", size: int = 16, seed: int = 0) -> Cohort:
    """Pair scikit-learn's 1,797 digits, with the digit as label.

    A patient is a pair: two different images of one digit. Which digit, and which of its images, is
    drawn at random, so an image comes back in many pairs; `truth` holds both images' rows in
    `sklearn.datasets.load_digits()`. Three images in ten of each digit, the same ones for every
    seed, are kept for the part `test`: no image is in both parts. Writers are in both, since who
    wrote what is not recorded.

    Args:
        n: Number of pairs.
        part: `train` or `test`.
        size: Pixels of a side: 8 as they come, 16 or 32 with every pixel repeated.
        seed: A whole number; a larger n begins with the same pairs.

    Access:
        Comes with scikit-learn.

    Licence:
        CC BY 4.0, UCI Machine Learning Repository.

    Citation:
        Alpaydin, E., Kaynak, C. (1998). Optical Recognition of Handwritten Digits. UCI Machine
        Learning Repository, data set 80. https://doi.org/10.24432/C50P49

    Shapes:
        first and second (n, 1, size, size), from 0 (paper) to 1 (ink); y (n,), 0 to 9.

    Raises:
        ValueError: An unknown part, or a number out of range.

    Example:
        >>> cohort = load(n=3)
        >>> cohort
        Cohort(3 rows: first (image), second (image); multiclass)
        >>> cohort.y.tolist(), cohort.x["first"].shape
        ([9.0, 3.0, 7.0], torch.Size([3, 1, 16, 16]))
    """
    if part not in get_args(Part):
        raise unknown(part, get_args(Part), "part of the digits")
    if size not in SIZES:
        raise ValueError(f"size={size} pixels is not on offer. Pass one of {SIZES}")
    for name, value, low, high in (("n", n, 1, MAX_N), ("seed", seed, 0, MAX_SEED)):
        if not low <= value <= high:
            raise ValueError(f"{name}={value} is out of range. Pass {low} to {high}")
    number = len(get_args(Part)) * seed + get_args(Part).index(part)
    digit, one, other = (
        np.random.default_rng(np.random.SeedSequence(number, spawn_key=(k,))).random(n)
        for k in range(3)
    )
    rows, y = _rows(part), (10 * digit).astype(int)
    counts = np.array([len(each) for each in rows])
    first = (counts[y] * one).astype(int)
    # one of the others, so that no image is paired with itself
    second = (first + 1 + ((counts[y] - 1) * other).astype(int)) % counts[y]
    start, listed = (counts.cumsum() - counts)[y], np.concatenate(rows)
    picked = {"first": listed[start + first], "second": listed[start + second]}
    images = (load_digits().images / 16).astype(np.float32)[:, None]
    times = size // SIDE
    return Cohort(
        x={v: images[at].repeat(times, axis=2).repeat(times, axis=3) for v, at in picked.items()},
        y=y,
        task="multiclass",
        groups={"patient": number * MAX_N + np.arange(n)},
        truth=pd.DataFrame(picked),
    )


@cache
def _rows(part: str) -> tuple[np.ndarray, ...]:
    """The rows of each digit that belong to a part, by a permutation that never changes."""
    target = load_digits().target
    result = []
    for digit in range(10):
        rows = np.random.default_rng(digit).permutation(np.flatnonzero(target == digit))
        cut = round(TEST_SHARE * len(rows))
        result.append(rows[:cut] if part == "test" else rows[cut:])
    return tuple(result)
