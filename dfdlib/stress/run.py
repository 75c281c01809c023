"""Anybody's method on the stress cohorts, beside plain training on the same patients."""

import hashlib
import inspect
import json
import operator
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from dfdlib import training
from dfdlib.data import Cohort, Schema
from dfdlib.errors import unknown, wrong_type
from dfdlib.evaluation import predict_proba
from dfdlib.evaluation.bootstrap import check_whole
from dfdlib.evaluation.compare import paired_intervals
from dfdlib.evaluation.predict import checked
from dfdlib.files import slug, write_whole
from dfdlib.models import GRAPE, Classifier, Method
from dfdlib.stress.cohorts import Half, find, load, of_half

Verdict = Literal["gains", "harmless", "harms", "refused", "undecided"]
Make = Callable[[Schema], Any]

ERM = "ERM"
#: Worlds that a method is scored in.
SCORED = ("home", "shifted", "randomised")
#: Two AUROCs closer than this are equivalent.
MARGIN = 0.01
#: How far below the better-behaved of ERM and oracle a method may score at home.
HOME = 0.02
# Test patients of each world.
_TEST = 10_000
# Below it there is no gap between ERM and oracle that could be closed.
_GAP = 0.02
_FORMAT = 1


@dataclass(frozen=True)
class StressTable:
    """What `run` returns.

    Attributes:
        frame: a row per kind, world and method: kind, draw (the draws that it is over), world,
            method, effect (mean difference of AUROC to ERM over the seeds), low and high (its 95 %
            interval by Student's t over the seeds, row by row), closed (share of the gap between
            ERM and oracle that is closed; NaN where the gap is under .02), verdict, and refused
            (how many of the runs the method refused).
        runs: a row per kind, draw, world and method: method's, ERM's and the oracle's AUROC, the
            reason of a refusal (None elsewhere), and the seconds of training.

    The verdict of a row: *harmless* where the whole interval lies within .01 of 0; else *gains* or
    *harms* where it lies above or below 0; *undecided* where it does neither, or there is one seed;
    *refused* where the method refused in every run. At home the interventional oracle is below ERM,
    which reads the bias: a method that corrects has to lose there, down to the oracle.
    """

    frame: pd.DataFrame
    runs: pd.DataFrame

    def ranking(self) -> pd.DataFrame:
        """Rank methods by the randomised world, those first that keep home.

        Returns:
            A row per method: randomised (mean effect), closed (mean share of the gap closed there),
            home (mean of what it scores above the lower of ERM and oracle), keeps_home (whether
            that is above −.02), and how many kinds have each verdict in the randomised world.
        """
        rows = []
        for method, frame in self.frame.groupby("method", sort=False):
            runs = self.runs[(self.runs["method"] == method) & (self.runs["world"] == "home")]
            home = float((runs["auroc"] - runs[["erm", "oracle"]].min(axis=1)).mean())
            there = frame[frame["world"] == "randomised"]
            counts = there["verdict"].value_counts()
            rows.append(
                {
                    "method": method,
                    "randomised": float(there["effect"].mean()),
                    "closed": float(there["closed"].mean()),
                    "home": home,
                    "keeps_home": home > -HOME,
                    **{name: int(counts.get(name, 0)) for name in Verdict.__args__},  # type: ignore[attr-defined]
                }
            )
        table = pd.DataFrame(rows).sort_values(["keeps_home", "randomised"], ascending=False)
        return table.reset_index(drop=True)

    def of(self, method: str) -> "StressTable":
        """The part of one method.

        Raises:
            ValueError: It is not in the table.
        """
        if method not in set(self.frame["method"]):
            raise unknown(method, self.frame["method"].unique(), "method of this table")
        parts = (table[table["method"] == method] for table in (self.frame, self.runs))
        return StressTable(*(part.reset_index(drop=True) for part in parts))

    def save(self, path: str | Path, *, command: str) -> Path:
        """Write the rows of `frame` as JSON, with version, processor and the command.

        Args:
            path: the file.
            command: what computes these rows again.

        Raises:
            ValueError: no command.
        """
        if not command:
            raise ValueError("a table without its command cannot be repeated. Pass command='…'")
        rows = json.loads(self.frame.to_json(orient="values", double_precision=4))
        card = {
            "stress": _FORMAT,
            "versions": {name: version(name) for name in ("dfdlib", "torch", "scikit-learn")},
            "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
            "threads": torch.get_num_threads(),
            "command": command,
            "columns": list(self.frame),
        }
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        head = json.dumps(card, ensure_ascii=False, indent=1).rstrip("}\n")
        path = Path(path)
        write_whole(path, f'{head},\n "rows": [\n{lines}\n]}}\n')
        return path


def read_rows(folder: str | Path) -> pd.DataFrame:
    """Read what `StressTable.save` wrote below a folder: the rows, and file, command, processor.

    Raises:
        FileNotFoundError: There is no such folder.

    Example:
        >>> read_rows("no-such-folder")
        Traceback (most recent call last):
        FileNotFoundError: no folder 'no-such-folder'. Run `make stress`, or pass another
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder.name!r}. Run `make stress`, or pass another")
    parts = []
    for path in sorted(folder.rglob("*.json")):
        card = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(card, dict) and card.get("stress") == _FORMAT:
            table = pd.DataFrame(card["rows"], columns=card["columns"])
            about = {name: card[name] for name in ("command", "processor")}
            parts.append(table.assign(file=path.relative_to(folder).as_posix(), **about))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def run(
    make: Any,
    *,
    kinds: Sequence[str] | str | None = None,
    half: Half | str = "open",
    seeds: Any = range(5),
    fit: Any = None,
    folder: str | Path | None = None,
    n: Any = None,
) -> StressTable:
    """Try a method on stress cohorts, beside plain training (ERM) on the same patients.

    Seed s takes draw s of a kind's parameters, and s for patients and training. ERM is
    `Classifier(backbone=GRAPE(d=16))`. Scores are AUROCs of the true outcome of 10,000 patients
    that no training saw, in each world.

    Args:
        make: `make(schema)` gives a new method of dfdlib, which `dfdlib.training.fit` trains; or an
            object with `fit(train, val, seed)` and `predict_proba(cohort)`, and, if it can refuse,
            the reason in `refusal`. `flat` makes one of a classifier of scikit-learn. Or several:
            a dict of name and make.
        kinds: names from `dfdlib.stress.kinds`; None takes all of `half`.
        half: `open` or `sealed`. Read `dfdlib.stress.sealed` before you run the latter.
        seeds: one run each; with fewer than two there are no intervals.
        fit: what `dfdlib.training.fit` is given besides, of methods of dfdlib and of ERM, such as
            `{"stages": [Stage(epochs=60)]}`.
        folder: where each run is kept as a small file of its own. A call that was killed goes on
            where it stopped, and ERM is run once for all methods. A run counts as done where
            method (by name and the source of `make`), kind, seed, n, `fit` and the version of
            dfdlib are the same; take another folder where anything else has changed.
        n: patients to train on, and of each test cohort, in the place of each kind's own numbers.

    Returns:
        A `StressTable`.

    Raises:
        TypeError: `make` is no function of a schema, or gives no method.
        ValueError: An unknown kind or half, no seeds, or seeds, a number or a name that cannot be.

    Example:
        >>> from sklearn.linear_model import LogisticRegression
        >>> from dfdlib.stress import flat
        >>> from dfdlib.training import Stage
        >>> table = run(
        ...     flat(LogisticRegression()), kinds="linear", seeds=[0, 1], n=200,
        ...     fit={"stages": [Stage(epochs=1)]},
        ... )
        >>> table.frame[["kind", "draw", "world", "method"]]
             kind draw       world              method
        0  linear  0–1        home  LogisticRegression
        1  linear  0–1     shifted  LogisticRegression
        2  linear  0–1  randomised  LogisticRegression
    """
    methods = _methods(make)
    names = list(of_half(half)) if kinds is None else _names(kinds, half)
    numbers = _seeds(seeds)
    if n is not None:
        check_whole("n", n, 100, "1000")
    options = _fit_options(fit)
    place = None if folder is None else Path(folder)
    everyone = {ERM: _erm} | methods
    jobs = [(kind, seed, name) for kind in names for seed in numbers for name in everyone]
    records = []
    with tqdm(jobs, disable=None, unit="run") as line:
        for kind, seed, name in line:
            line.set_description(f"{kind}, seed {seed}, {name}")
            records.append(_stored(everyone[name], kind, seed, name, options, n, place))
    runs = _runs(records)
    return StressTable(_frame(runs, names, list(methods), numbers), runs)


# ---------------------------------------------------------------- what is asked


def _erm(schema: Schema) -> Classifier:
    return Classifier(backbone=GRAPE(d=16), schema=schema)


def _methods(make: object) -> dict[str, Make]:
    several: dict[str, Any] = dict(make) if isinstance(make, Mapping) else {_called(make): make}
    if not several:
        raise ValueError("there is no method to run. Pass make, or a dict of name and make")
    slugs = {slug(str(name)) for name in (ERM, *several)}
    if len(slugs) <= len(several):
        raise ValueError(
            f"two methods are called alike ({', '.join(map(str, several))}, beside {ERM}). Pass "
            "a dict with other names"
        )
    for one in several.values():
        if isinstance(one, torch.nn.Module) or not callable(one):
            advice = "Write stress.run(lambda schema: Classifier(backbone=GRAPE(), schema=schema))"
            if hasattr(one, "get_params"):
                advice = "Write stress.run(stress.flat(LogisticRegression()))"
            raise wrong_type(one, "run takes a function that makes a method for a schema", advice)
    return several


def _called(make: object) -> str:
    name = getattr(make, "__name__", type(make).__name__)
    return "method" if name == "<lambda>" else str(name)


def _names(kinds: Sequence[str] | str, half: str) -> list[str]:
    names = [kinds] if isinstance(kinds, str) else list(kinds)
    for name in names:
        if name not in of_half(half):
            raise unknown(name, of_half(half), f"kind of the {half} half")
    if not names:
        raise ValueError("there is no kind to run on. Pass kinds=None for all of a half")
    return list(dict.fromkeys(names))


def _seeds(seeds: object) -> list[int]:
    try:
        numbers = [operator.index(seed) for seed in seeds]  # type: ignore[attr-defined]
    except TypeError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise ValueError(f"seeds is {seeds!r}. Pass different whole numbers from 0 on: range(5)")
    return numbers


def _fit_options(fit: object) -> dict[str, Any]:
    if fit is None:
        return {}
    if not isinstance(fit, Mapping):
        takes = "run takes what training.fit is given as a dict in fit="
        raise wrong_type(fit, takes, "Write fit={'stages': [Stage(epochs=60)]}")
    options = dict(fit)
    known = set(inspect.signature(training.fit).parameters)
    known -= {"model", "train", "val", "seed", "folder", "progress"}
    for name in options:
        if name not in known:
            raise unknown(name, sorted(known), "setting that fit= may hold")
    return options


# ---------------------------------------------------------------- one run


def _stored(
    make: Make,
    kind: str,
    seed: int,
    name: str,
    options: dict[str, Any],
    n: int | None,
    folder: Path | None,
) -> dict[str, Any]:
    """The record of a run: read, where it is there, else computed and written whole."""
    if folder is None:
        return _record(make, kind, seed, name, options, n)
    same = (_FORMAT, _source(make), n, sorted((k, repr(v)) for k, v in options.items()))
    digest = hashlib.sha256(repr((*same, version("dfdlib"))).encode()).hexdigest()[:10]
    path = folder / kind / f"{slug(name)}-{seed}-{digest}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    record = _record(make, kind, seed, name, options, n)
    write_whole(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record


def _source(make: object) -> str:
    """What a method is told apart by, beside its name."""
    try:
        return inspect.getsource(make)  # type: ignore[arg-type]
    except (OSError, TypeError):  # typed in at a prompt, or an object: what it shows of itself
        return "" if " at 0x" in repr(make) else repr(make)


def _record(
    make: Make, kind: str, seed: int, name: str, options: dict[str, Any], n: int | None
) -> dict[str, Any]:
    size = find(kind).n if n is None else n
    both = load(kind, draw=seed, world="train", n=size + max(size // 5, 1), seed=seed)
    train, val = both.select(np.arange(size)), both.select(np.arange(size, len(both)))
    start = time.perf_counter()
    score, refused = _trained(make(train.schema), train, val, seed, options, name)
    seconds = time.perf_counter() - start
    scores, oracle = {}, {}
    for world in SCORED:
        test = load(kind, draw=seed, world=world, n=_TEST if n is None else n, seed=seed)
        assert test.truth is not None  # stress cohorts have one
        scores[world] = float(roc_auc_score(test.truth["y"], score(test)[:, 1]))
        oracle[world] = float(roc_auc_score(test.truth["y"], test.truth["p_do"]))
    return {
        "kind": kind,
        "draw": seed,
        "method": name,
        "auroc": scores,
        "oracle": oracle,
        "refused": refused,
        "seconds": round(seconds, 2),
    }


def _trained(
    method: Any, train: Cohort, val: Cohort, seed: int, options: dict[str, Any], name: str
) -> tuple[Callable[[Cohort], np.ndarray], str | None]:
    """Train a method: what scores a cohort, and why it refused, if it did."""
    if isinstance(method, Method):
        model = training.fit(method, train, val, seed=seed, progress=False, **options).model
        return (lambda cohort: predict_proba(model, cohort)), _refusal(model)
    if not (hasattr(method, "fit") and hasattr(method, "predict_proba")):
        raise wrong_type(
            method,
            f"make of {name!r} gives a method of dfdlib, or an object with fit(train, val, seed) "
            "and predict_proba(cohort)",
            "See stress.flat for one",
        )
    method.fit(train, val, seed)

    def score(cohort: Cohort) -> np.ndarray:
        p = np.asarray(method.predict_proba(cohort))
        return checked(p, n=len(cohort), k=2, task="binary")

    return score, _refusal(method)


def _refusal(method: Any) -> str | None:
    reason = getattr(method, "refusal", None)
    return None if reason is None else str(reason)


# ---------------------------------------------------------------- all runs


def _runs(records: list[dict[str, Any]]) -> pd.DataFrame:
    """A row per run and world, with what ERM scored on the same patients."""
    rows = [
        {
            "kind": record["kind"],
            "draw": record["draw"],
            "world": world,
            "method": record["method"],
            "auroc": record["auroc"][world],
            "oracle": record["oracle"][world],
            "refused": record["refused"],
            "seconds": record["seconds"],
        }
        for record in records
        for world in SCORED
    ]
    runs = pd.DataFrame(rows).astype({"refused": object})
    erm = runs[runs["method"] == ERM].set_index(["kind", "draw", "world"])["auroc"].rename("erm")
    return runs.join(erm, on=["kind", "draw", "world"])


def _frame(
    runs: pd.DataFrame, kinds: list[str], methods: list[str], seeds: list[int]
) -> pd.DataFrame:
    draws = ", ".join(map(str, seeds))
    if len(seeds) > 1 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        draws = f"{seeds[0]}–{seeds[-1]}"
    rows = []
    of_each = runs.groupby(["kind", "world", "method"], sort=False)
    for kind in kinds:
        for method in methods:
            for world in SCORED:
                part = of_each.get_group((kind, world, method))
                effects = (part["auroc"] - part["erm"]).to_numpy()
                gap = float((part["oracle"] - part["erm"]).mean())
                low = high = float("nan")
                if len(effects) > 1:
                    # a row is read by itself: no correction over kinds
                    row = paired_intervals(effects[None], margin=MARGIN).iloc[0]
                    low, high = float(row["low"]), float(row["high"])
                refused = int(part["refused"].notna().sum())
                rows.append(
                    {
                        "kind": kind,
                        "draw": draws,
                        "world": world,
                        "method": method,
                        "effect": float(effects.mean()),
                        "low": low,
                        "high": high,
                        "closed": float(effects.mean()) / gap if gap >= _GAP else float("nan"),
                        "verdict": verdict(low, high, refused=refused == len(part)),
                        "refused": refused,
                    }
                )
    return pd.DataFrame(rows)


def verdict(low: float, high: float, *, refused: bool = False) -> Verdict:
    """Judge a method by the interval of its difference to ERM.

    Example:
        >>> verdict(0.02, 0.05), verdict(-0.004, 0.006), verdict(-0.03, 0.04)
        ('gains', 'harmless', 'undecided')
    """
    if refused:
        return "refused"
    if low >= -MARGIN and high <= MARGIN:
        return "harmless"
    if low > 0:
        return "gains"
    return "harms" if high < 0 else "undecided"
