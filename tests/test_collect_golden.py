"""What each `collect` of workflow/ writes from made-up runs, against what it wrote before.

Nothing is trained, and no number here means anything: the files in fixtures/collect freeze how runs
become results while code moves. `python tests/test_collect_golden.py` writes them anew, which is
right only where a result is meant to change.
"""

import hashlib
import json
import math
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dfdlib import data
from dfdlib.data import Cohort

WORKFLOW = Path(__file__).parents[1] / "workflow"
GOLDEN = Path(__file__).parent / "fixtures" / "collect"
# What tells where and when a result was made; of the phantom, what tells its last bits.
VOLATILE = ("commit", "versions", "device", "seconds", "date", "generator", "drawn")
SEEDS = [0, 1, 2]
WORLDS = ("id", "shifted", "randomised")


def made(*names, low=0.5, high=0.95):
    """A number that hangs on the names alone, and little on those that are whole: the seeds."""
    about = (name for name in names if not isinstance(name, int))
    shares = 0.98 * share(*about) + 0.02 * share(*names)
    return round(low + (high - low) * shares, 6)


def share(*names):
    hashed = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return int.from_bytes(hashed[:6], "big") / 2**48


def by_world(*names):
    return {world: made(*names, world) for world in WORLDS}


def write(folder, name, record):
    path = folder / f"{name}.json"
    path.write_text(json.dumps(record), "utf-8")
    return path


# ---------------------------------------------------------------- runs, collect by collect


def routes_record(preset, seed, names, **keys):
    """A run of the grid of routes: AUROC and distance of each route and oracle."""
    return {
        "preset": preset,
        "seed": seed,
        **keys,
        **{
            name: {
                world: {
                    "auroc": made(preset, seed, keys, name, world),
                    "distance": made(preset, seed, keys, name, world, "distance", low=0, high=0.3),
                }
                for world in WORLDS
            }
            for name in ("oracle p_do", "oracle p_obs", *names)
        },
    }


def deconfounding(patch, runs, out):
    grid = import_module("deconfounding")
    patch.setitem(grid.SETTINGS, "seeds", SEEDS)
    files = []
    for preset, extra in (("severity", ["ipw by severity"]), ("mnar-latent", [])):
        for family in ("GRAPE", "Transformer", "Tables"):
            names = ["naive", "stratified", "substitute", *extra]
            if family == "Tables":
                names = [
                    "mean imputation, logistic regression",
                    "KNN imputation, gradient boosting",
                ]
            for seed in SEEDS:
                record = routes_record(preset, seed, names, family=family)
                if "substitute" in record:
                    record["substitute"]["confounder"] = {
                        "auroc": made(preset, seed),
                        "share": [0.5],
                    }
                files.append(write(runs, f"{preset}-{family}-{seed}", record))
    grid.collect(files, out)


def mechanisms(patch, runs, out):
    mechanisms = import_module("mechanisms")
    patch.setitem(mechanisms.grid.SETTINGS, "seeds", SEEDS)
    patch.setitem(mechanisms.SETTINGS, "presets", ["mar", "mnar-self"])
    patch.setattr(mechanisms, "ROUTES", ["naive", "substitute", "invariant"])
    files = []
    for seed in SEEDS:
        for preset in ("mcar", "mar", "mnar-self"):
            for strength in (0.5, 1.0, 1.5, 2.0):
                record = routes_record(preset, seed, mechanisms.ROUTES, strength=strength)
                files.append(write(runs, f"{preset}-{strength}-{seed}", record))
    mechanisms.collect(files, out)


def presets(patch, runs, out):
    presets = import_module("presets")
    patch.setitem(presets.grid.SETTINGS, "seeds", SEEDS)
    files = [
        write(runs, f"{preset}-{seed}", routes_record(preset, seed, ["naive"]))
        for preset in presets.synthetic.PRESETS
        for seed in SEEDS
    ]
    presets.collect(files, out / "presets.json")


def probabilities(cohort, *names):
    """Of disease, for each patient: better or worse by the names, and nearly the same by seed."""
    scale = 10 ** made(*(name for name in names if not isinstance(name, int)), low=-0.5, high=1)
    draws = [(name for name in names if not isinstance(name, int)), names]
    wide, narrow = (
        np.random.default_rng(int(2**32 * share(*each))).standard_normal(len(cohort))
        for each in draws
    )
    noise = scale * (wide + 0.1 * narrow)
    return (1 / (1 + np.exp(0.5 - cohort.y.numpy() - noise))).round(6)


def hospital_runs(runs, methods):
    cohort = data.load("heart")
    files = []
    for method in methods:
        for seed in SEEDS:
            frame = pd.DataFrame({"patient": cohort.groups["patient"]})
            for way in ("own hospital", "next hospital"):
                frame[way] = probabilities(cohort, method, seed, way)
            files.append(runs / f"{method}-{seed}.csv")
            frame.to_csv(files[-1], index=False)
    return files


def next_hospital(patch, runs, out):
    grid = import_module("next_hospital")
    patch.setitem(grid.SETTINGS, "n_boot", 200)
    grid.collect(hospital_runs(runs, ["Logistic regression", "GRAPE"]), out)


def deconfounding_heart(patch, runs, out):
    grid = import_module("deconfounding_heart")
    patch.setitem(grid.SETTINGS, "n_boot", 1000)
    patch.setitem(grid.GIVEN, "seeds", SEEDS)
    patch.setattr(grid, "ROUTES", ["ipw", "substitute"])
    grid.collect(hospital_runs(runs, ["naive", "ipw", "substitute"]), out)


def gate(patch, runs, out):
    grid = import_module("gate")
    patch.setitem(grid.SETTINGS, "seeds", SEEDS)
    files = []
    for preset, backbones in grid.SETTINGS["grid"].items():
        for backbone, names in backbones.items():
            for seed in SEEDS:
                where = (preset, backbone, seed)
                gates = {
                    name: {
                        "gap": made(*where, name, low=-0.2, high=0.5),
                        "agreement": made(*where, name, "agreement", low=-1, high=1),
                        "scores": {
                            rule: by_world(*where, name, rule)
                            for rule in ("concat", "causal_refit")
                        },
                    }
                    for name in names
                }
                record = {"preset": preset, "backbone": backbone, "seed": seed, "gates": gates}
                files.append(write(runs, "-".join(map(str, where)), record))
    grid.collect(files, out)


def table_records(presets, n, backbones, names, rules):
    """Runs of the main table, in two parts."""
    for preset in presets:
        for backbone in backbones:
            for seed in SEEDS:
                where = (preset, n, backbone, seed)
                keys = {"preset": preset, "n": n, "backbone": backbone, "seed": seed}
                oracles = {
                    "oracle": {w: made(*where, w, low=0.85, high=0.95) for w in WORLDS},
                    "best observational": by_world(*where, "best"),
                }
                plain = {name: by_world(*where, name) for name in names if "DFD" not in name}
                yield {**keys, "part": "baselines", "scores": oracles | plain, "signatures": {}}
                dual = [name for name in names if "DFD" in name]
                scores = {
                    f"{name}: {rule}": by_world(*where, name, rule)
                    for name in dual
                    for rule in rules
                }
                told = {
                    name: [{"quantity": "tau", "value": made(*where, name), "ok": True}]
                    for name in dual
                }
                yield {**keys, "part": "DFD", "scores": oracles | scores, "signatures": told}


def main_table(patch, runs, out):
    grid = import_module("main_table")
    patch.setitem(grid.SETTINGS, "seeds", SEEDS)
    names = ["ERM", "CORAL", "DFD", "hospital-aware DFD"]
    patch.setattr(grid, "METHODS", {name: grid.METHODS[name] for name in names})
    records = table_records(
        ["confounded-linear", "causal-shift"], 2000, ["GRAPE"], names, grid.SETTINGS["rules"]
    )
    grid.collect([write(runs, str(k), record) for k, record in enumerate(records)], out)


def evidence(patch, runs, out):
    grid = import_module("evidence")
    patch.setitem(grid.SETTINGS, "seeds", SEEDS)
    cut = {
        "injection": {"data": ["synthetic, strength 0", "synthetic, strength 1"]},
        "hospitals": {
            "data": ["heart, hungary", "heart, va"],
            "backbones": {
                "GRAPE": ["ERM", "DFD", "without MI", "ten times the weight"],
                "TokenTransformer": ["ERM", "DFD", "without MI", "gate in all layers"],
            },
        },
        "map": {"grid": {"slope": [0.3, 4.0], "hidden": [0, 4]}},
        "hard-bias": {},
        "bias-probe": {
            "data": ["confounded-linear", "anticausal"],
            "backbones": {"GRAPE": ["ERM", "DFD", "ten times the weight"]},
        },
    }
    for name, changes in cut.items():
        given = grid.EXPERIMENTS[name]
        for key, value in changes.items():
            kept = {each: given[key][each] for each in value} if key == "data" else value
            patch.setitem(given, key, kept)
    records = [
        evidence_record(grid, name, where, backbone, methods, seed)
        for name in cut
        if name != "bias-probe"
        for where in grid.cohorts(name)
        for backbone, methods in grid.EXPERIMENTS[name]["backbones"].items()
        for seed in SEEDS
    ]
    # one run's methods come in two files
    first = records[0]
    halves = [dict(list(first["methods"].items())[part]) for part in (slice(2), slice(2, None))]
    records = [{**first, "methods": half} for half in halves] + records[1:]
    records += table_records(
        ["confounded-linear", "anticausal"], 10_000, ["GRAPE"],
        ["ERM", "DFD", "DFD with ten times the weight"], ["concat", "causal", "bias"],
    )  # fmt: skip
    grid.collect([write(runs, f"{k:03}", record) for k, record in enumerate(records)], out)


def evidence_record(grid, experiment, where, backbone, methods, seed):
    given = grid.EXPERIMENTS[experiment]
    asked = {answer["of"] for answer in given["answers"].values()}
    asked |= {answer["minus"].get("number", answer["of"]) for answer in given["answers"].values()}
    asked |= {number.replace("shifted", "id") for number in asked}
    place = (experiment, where, backbone, seed)
    record = {
        "experiment": experiment, "data": where, "backbone": backbone, "seed": seed,
        "scale": "small", "versions": {"torch": "2"}, "seconds": 1.0,
        "bounds": {} if given.get("reach") == "open" else {
            f"auroc oracle {w}": made(*place, w, low=0.7, high=0.8) for w in WORLDS
        },
        "methods": {
            name: {
                "numbers": {number: made(*place, name, number) for number in sorted(asked)},
                "signatures": [{"quantity": "tau", "value": made(*place, name), "ok": True}],
            }
            for name in methods
        },
    }  # fmt: skip
    if given.get("reach") == "open":
        n = {"id": 30, "shifted": 40}
        record["labels"] = {w: [float(k % 3 == 0) for k in range(n[w])] for w in n}
        for name, method in record["methods"].items():
            method["scores"] = {
                w: {
                    rule: [made(*place, name, w, rule, str(k), low=-2, high=2) for k in range(n[w])]
                    for rule in ("own", "concat", "causal", "bias")
                }
                for w in n
            }
    return record


def search(patch, runs, out):
    grid = import_module("search")
    patch.setitem(grid.SETTINGS, "seeds", SEEDS)
    patch.setitem(grid.SETTINGS, "configurations", 4)

    def scores(*names):
        found = {"ERM": {world: made(*names, world, low=0.5, high=0.9) for world in WORLDS}}
        for name in grid.SETTINGS["rules"]:
            found[name] = {w: made(*names, name, w, low=0.7, high=0.99) for w in WORLDS}
        best = {world: made(*names, world, low=0.9, high=0.95) for world in WORLDS}
        return {**found, "oracle": best}

    files = []
    for number in range(4):
        tried = {
            f"{name}, {seed}": scores(number, name, seed)
            for name in grid.SETTINGS["data"]
            for seed in grid.SETTINGS["tuning_seeds"]
        }
        record = {"number": number, "configuration": {}, "scores": tried}
        files.append(write(runs, str(number), record))
    for seed in SEEDS:
        fresh = {name: scores("fresh", name, seed) for name in grid.SETTINGS["data"]}
        record = {"seed": seed, "picked": 0, "rule": "causal", "scores": fresh}
        files.append(write(runs, f"fresh-{seed}", record))
    grid.collect(files, out)


def insight(patch, runs, out):
    grid = import_module("insight")
    many = list(range(12))
    patch.setitem(grid.SETTINGS, "seeds", many)
    heart = import_module("insight_heart")
    for key, value in (("n_boot", 200), ("n_permutations", 199), ("seeds", SEEDS)):
        patch.setitem(heart.SETTINGS, key, value)

    def guessed(cohort, *_, seed, **__):
        if cohort.task == "binary":
            p = probabilities(cohort, "mask", seed)
            return np.column_stack([1 - p, p])
        return np.random.default_rng(seed).dirichlet(np.ones(cohort.schema.n_classes), len(cohort))

    # nothing is trained here, since processors would not agree to the ninth digit
    patch.setattr(heart, "out_of_fold", guessed)
    statements = grid.tests()
    implied = {
        name: [grid.causal.d_separated(graph, *test[:2], test.given) for test in statements]
        for name, graph in grid.candidates().items()
    }
    files = []
    for preset, wrong in (("mar", 0.0), ("mnar-latent", 0.1), ("mnar-self", 0.5)):
        # tests say what the graph says, but for a share that is wrong
        p = [
            [
                share(preset, seed, k, "p") if silent != (share(preset, seed, k) < wrong) else 1e-9
                for k, silent in enumerate(implied[preset])
            ]
            for seed in many
        ]
        files.append(write(runs, preset, {"preset": preset, "p": p}))
    grid.collect(files, out)


def mmvm(patch, runs, out):
    grid = import_module("mmvm")
    patch.setitem(grid.SETTINGS, "seeds", SEEDS)
    main = grid.EXPERIMENTS["main"]
    kept = ("mmvm-stability", "mmvm-label-noise", "mmvm-label-efficiency", "mmvm-single-modality")
    patch.setitem(main, "answers", {claim: main["answers"][claim] for claim in kept})
    asked = {
        answer[key]
        for experiment in ("main", "sharing", "degraded")
        for answers in grid.EXPERIMENTS[experiment]["answers"].values()
        for answer in answers
        for key in ("of", "to")
        if key in answer
    }
    files = []
    for experiment in ("main", "sharing", "degraded"):
        given = grid.EXPERIMENTS[experiment]
        for where in given["data"]:
            for seed in SEEDS:
                names = [name for name in given["methods"] if name not in given.get("from", ())]
                for part, some in enumerate((names[:2], names[2:])):
                    record = {
                        "experiment": experiment, "data": where, "seed": seed, "scale": "small",
                        "versions": {"torch": "2"}, "seconds": 1.0,
                        "methods": {
                            name: {
                                "numbers": {x: made(where, seed, name, x) for x in sorted(asked)},
                                "seconds": 1.0,
                            }
                            for name in some
                        },
                    }  # fmt: skip
                    files.append(write(runs, f"{experiment}-{where}-{seed}-{part}", record))
    grid.collect(files, out)


def phantom(patch, runs, out):
    grid = import_module("phantom_check")
    patch.setattr(grid, "N_TEST", 400)
    patch.setattr(grid, "N_BOOT", 50)
    test = data.load("phantom", n=400, size=16, world="id", seed=grid.TEST_SEED)
    drawn, files = grid.drawn(), []
    for view in ("frontal", "lateral"):
        for seed in SEEDS:
            rng = np.random.default_rng([seed, len(view), ord(view[0])])
            scores = test.y.numpy() + rng.standard_normal(test.y.shape)
            record = {
                "view": view,
                "seed": seed,
                "drawn": drawn,
                "scores": scores.round(5).tolist(),
            }
            files.append(write(runs, f"{view}-{seed}", record))
    grid.collect(files, out / "phantom.json")


def stays(modalities):
    """Made-up stays in three regions; some patients have several, and a few in two regions."""
    rng = np.random.default_rng(5)
    n = 240
    patient = rng.integers(0, 170, n)
    region = np.array(["north", "south", "west"])[patient % 3]
    region[:3] = "west"
    values = {name: rng.standard_normal((n, 2)) for name in modalities}
    for k, name in enumerate(modalities[1:]):
        values[name][rng.random(n) < 0.2 + 0.05 * k] = np.nan
    return Cohort(
        x={
            name: pd.DataFrame(table, columns=[f"{name} 1", f"{name} 2"])
            for name, table in values.items()
        },
        y=(rng.random(n) < 0.3).astype(float),
        task="binary",
        groups={"patient": patient, "hospital": patient % 7, "region": region, "row": np.arange(n)},
    )


def eicu_demo(patch, runs, out):
    grid = import_module("eicu_demo")
    patch.setattr(grid, "SEEDS", SEEDS)
    patch.setitem(grid.SETTINGS, "seeds", SEEDS)
    patch.setitem(grid.SETTINGS, "n_boot", 200)
    flow = pd.DataFrame({"step": ["stays", "with an outcome"], "left": [300, 240]})
    patch.setattr(
        grid.eicu_demo_data, "load", lambda *_, modalities, **__: (stays(modalities), flow)
    )
    files = []
    for part, given in grid.PARTS.items():
        cohort, _ = grid.cohort_of(part)
        for seed in SEEDS:
            found = {}
            for method in given["methods"]:
                dual = grid.METHODS[method].get("class") == "DFD"
                for rule in grid.SETTINGS["rules"] if dual else ["own"]:
                    found[f"{method}: {rule}"] = probabilities(cohort, part, seed, method, rule)
            files.append(runs / f"{part}-{seed}.npz")
            np.savez(files[-1], **found)
    grid.collect(files, out)


CASES = {
    case.__name__: case
    for case in (
        deconfounding, mechanisms, presets, next_hospital, deconfounding_heart, gate, main_table,
        evidence, search, insight, mmvm, phantom, eicu_demo,
    )
}  # fmt: skip


# ---------------------------------------------------------------- before and now


def collected(name, folder):
    """What a collect writes, by file, without what differs from place to place."""
    runs, out = folder / "runs", folder / "out"
    runs.mkdir(parents=True)
    out.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(WORKFLOW))
        CASES[name](patch, runs, out)
    return {
        path.relative_to(out).as_posix(): masked(json.loads(path.read_text("utf-8")))
        for path in sorted(out.rglob("*.json"))
    }


def masked(value):
    if isinstance(value, dict):
        return {k: "…" if k in VOLATILE else masked(v) for k, v in value.items()}
    return [masked(each) for each in value] if isinstance(value, list) else value


def differences(before, now, where=""):
    """Paths at which two results differ: keys and texts exactly, numbers by more than 1e-9."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() ^ now.keys():
            yield f"{where}/{key}: only {'before' if key in before else 'now'}"
        for key in before.keys() & now.keys():
            yield from differences(before[key], now[key], f"{where}/{key}")
    elif isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            yield f"{where}: {len(before)} entries before, {len(now)} now"
        for k, pair in enumerate(zip(before, now, strict=False)):
            yield from differences(*pair, f"{where}/{k}")
    elif {type(before), type(now)} <= {int, float}:
        same = math.isnan(before) and math.isnan(now)
        if not same and not math.isclose(before, now, rel_tol=1e-9, abs_tol=1e-12):
            yield f"{where}: {before!r} before, {now!r} now"
    elif type(before) is not type(now) or before != now:
        yield f"{where}: {before!r} before, {now!r} now"


@pytest.mark.parametrize("name", CASES)
def test_a_collect_writes_what_it_wrote_before(name, tmp_path):
    before = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
    found = sorted(differences(before, collected(name, tmp_path)))
    assert not found, "\n".join(found[:20])


def test_every_collect_is_frozen():
    """A script with a `collect` has a case here; one may serve another's records."""
    there = {
        path.stem for path in WORKFLOW.glob("*.py") if "\ndef collect(" in path.read_text("utf-8")
    }
    assert there == {"phantom_check" if name == "phantom" else name for name in CASES}
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(CASES)


def test_what_differs_is_seen():
    before = {"a": {"effect": 0.1, "each": [1.0, 2.0], "verdict": "held", "p": None, "n": 3}}
    for path, changed in {
        "/a/effect": {"effect": 0.1 * (1 + 1e-8)},
        "/a/each": {"each": [1.0]},
        "/a/each/1": {"each": [1.0, 2.1]},
        "/a/verdict": {"verdict": "undecided"},
        "/a/p": {"p": 0.5},
        "/a/n": {"n": 4},
        "/a/other": {"other": 1},
    }.items():
        (found,) = differences(before, {"a": before["a"] | changed})
        assert found.startswith(f"{path}: ")
    last_bits = {"a": before["a"] | {"effect": 0.1 * (1 + 1e-12), "n": 3.0}}
    assert not list(differences(before, last_bits))
    assert masked({"a": [{"commit": "0a1b", "x": 1}]}) == {"a": [{"commit": "…", "x": 1}]}


def main(names):
    """Write what the collects give now."""
    from tempfile import TemporaryDirectory

    GOLDEN.mkdir(exist_ok=True)
    for name in names or CASES:
        with TemporaryDirectory() as folder:
            text = json.dumps(
                collected(name, Path(folder)), sort_keys=True, ensure_ascii=False, indent=0
            )
        (GOLDEN / f"{name}.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
