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


def recipe_of(experiment):
    """A recipe, with the seeds of this file."""
    return import_module("recipes").read(experiment) | {"seeds": SEEDS}


def collect(recipe, runs, records, out):
    import_module("collect").collect(recipe, [write(runs, "records", records)], out)


# ---------------------------------------------------------------- runs, collect by collect


def scored(setting, seed, names, *about):
    """A record of the grids of routes: AUROC and distance of each route and oracle."""

    def truth(name):
        return {
            world: {
                "auroc": made(*about, name, world),
                "distance": made(*about, name, world, "distance", low=0, high=0.3),
            }
            for world in WORLDS
        }

    return {
        "setting": setting,
        "seed": seed,
        "values": {
            "cohort": {
                "oracle_truth": {name: truth(name) for name in ("oracle p_do", "oracle p_obs")}
            },
            "methods": {name: {"truth": truth(name)} for name in names},
        },
    }


def routes(patch, runs, out):
    recipe = recipe_of("deconfounding") | {"presets": ["severity", "mnar-latent"]}
    records = []
    for preset, extra in (("severity", ["ipw by severity"]), ("mnar-latent", [])):
        for family in ("GRAPE", "Transformer", "Tables"):
            names = ["naive", "stratified", "substitute", *extra]
            if family == "Tables":
                names = [
                    "mean imputation, logistic regression",
                    "KNN imputation, gradient boosting",
                ]
            for seed in SEEDS:
                where = {"preset": preset, "family": family}
                record = scored(where, seed, names, preset, seed, {"family": family})
                methods = record["values"]["methods"]
                if "substitute" in methods:
                    told = {"auroc": made(preset, seed), "share": [0.5]}
                    methods["substitute"]["recovered"] = told
                records.append(record)
    collect(recipe, runs, records, out)


def strengths(patch, runs, out):
    names = ["naive", "substitute", "invariant"]
    recipe = recipe_of("deconfounding-strength")
    recipe |= {"presets": ["mar", "mnar-self"], "routes": names}
    records = []
    for seed in SEEDS:
        for preset in ("mcar", "mar", "mnar-self"):
            for strength in (0.5, 1.0, 1.5, 2.0):
                where = {"preset": preset, "strength": strength}
                if strength == 1:  # of the grid of routes
                    where = {"preset": preset, "family": "GRAPE"}
                about = (preset, seed, {"strength": strength})
                records.append(scored(where, seed, names, *about))
    collect(recipe, runs, records, out)


def presets(patch, runs, out):
    recipe = recipe_of("presets")
    records = [
        scored(
            {"preset": preset} | ({} if preset in recipe["presets"] else {"family": "GRAPE"}),
            seed, ["naive"], preset, seed, {},
        )
        for preset in import_module("dfdlib.data.synthetic").PRESETS
        for seed in SEEDS
    ]  # fmt: skip
    collect(recipe, runs, records, out / "presets.json")


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


def hospital_records(key, methods):
    cohort = data.load("heart")
    return [
        {
            "setting": {key: method},
            "seed": seed,
            "values": {
                "cohort": {"patients": cohort.groups["patient"].tolist()},
                "methods": {
                    method: {
                        "crossed": {
                            way: probabilities(cohort, method, seed, way).tolist()
                            for way in ("own hospital", "next hospital")
                        }
                    }
                },
            },
        }
        for method in methods
        for seed in SEEDS
    ]


def hospitals(patch, runs, out):
    recipe, methods = recipe_of("next-hospital"), ["Logistic regression", "GRAPE"]
    before = dict(recipe)
    recipe |= {"n_boot": 200, "methods": methods}
    collect(recipe, runs, hospital_records("method", methods), out)
    for path in out.glob("*.json"):
        # all methods and seeds were named in what is frozen
        stored = json.loads(path.read_text("utf-8"))
        stored["parameters"] |= {"methods": before["methods"], "seeds": [0, 1, 2, 3, 4]}
        path.write_text(json.dumps(stored), "utf-8")


def hospital_routes(patch, runs, out):
    recipe = recipe_of("deconfounding-heart") | {"n_boot": 1000}
    recipe["routes"] = ["naive", "ipw", "substitute"]
    collect(recipe, runs, hospital_records("route", recipe["routes"]), out)


def gate(patch, runs, out):
    recipe = recipe_of("dfd-gate")
    records = [
        {
            "setting": setting,
            "seed": seed,
            "values": {
                "cohort": {},
                "methods": {
                    name: {
                        "gate": {
                            "gap": made(*setting.values(), seed, name, low=-0.2, high=0.5),
                            "agreement": made(
                                *setting.values(), seed, name, "agreement", low=-1, high=1
                            ),
                        },
                        "auroc": {
                            rule: by_world(*setting.values(), seed, name, rule)
                            for rule in ("concat", "causal_refit")
                        },
                    }
                    for name in recipe["grid"][setting["preset"]][setting["backbone"]]
                },
            },
        }
        for setting in import_module("recipes").jobs(recipe)
        for seed in SEEDS
    ]
    collect(recipe, runs, records, out)


def table_records(presets, n, backbones, names, rules):
    """Runs of the main table, in two parts."""
    for preset in presets:
        for backbone in backbones:
            for seed in SEEDS:
                where = (preset, n, backbone, seed)
                keys = {"preset": preset, "n": n, "backbone": backbone}
                oracles = {
                    "oracle": {w: made(*where, w, low=0.85, high=0.95) for w in WORLDS},
                    "best observational": by_world(*where, "best"),
                }
                plain = {
                    name: {"auroc": {"own": by_world(*where, name)}, "signatures": []}
                    for name in names
                    if "DFD" not in name
                }
                dual = {
                    name: {
                        "auroc": {rule: by_world(*where, name, rule) for rule in rules},
                        "signatures": [
                            {"quantity": "tau", "value": made(*where, name), "ok": True}
                        ],
                    }
                    for name in names
                    if "DFD" in name
                }
                for part, methods in (("baselines", plain), ("DFD", dual)):
                    yield {
                        "experiment": "main-table",
                        "setting": {**keys, "part": part},
                        "seed": seed,
                        "values": {"cohort": {"oracles": oracles}, "methods": methods},
                    }


def main_table(patch, runs, out):
    recipe = recipe_of("main-table")
    recipe |= {"presets": ["confounded-linear", "causal-shift"], "sizes": [2000]}
    recipe["backbones"] = ["GRAPE"]
    names = ["ERM", "CORAL", "DFD", "hospital-aware DFD"]
    given = {name: method for part in recipe["parts"].values() for name, method in part.items()}
    parts = {"baselines": names[:2], "DFD": names[2:]}
    recipe["parts"] = {p: {name: given[name] for name in some} for p, some in parts.items()}
    records = table_records(recipe["presets"], 2000, ["GRAPE"], names, recipe["rules"])
    collect(recipe, runs, list(records), out)


def evidence(patch, runs, out):
    recipe, grid = recipe_of("dfd-evidence"), import_module("measures.evidence")
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
    experiments = {name: recipe["experiments"][name] for name in cut}
    for name, changes in cut.items():
        if "data" in changes:
            whole = experiments[name]["data"]
            changes["data"] = {each: whole[each] for each in changes["data"]}
        experiments[name] |= changes
    recipe["experiments"] = experiments
    records = [
        evidence_record(recipe, setting, seed) for setting in grid.jobs(recipe) for seed in SEEDS
    ]
    # one run's methods come in two records
    first = records[0]
    methods = list(first["values"]["methods"].items())
    halves = [
        first | {"values": first["values"] | {"methods": dict(methods[part])}}
        for part in (slice(2), slice(2, None))
    ]
    table = table_records(
        ["confounded-linear", "anticausal"], 10_000, ["GRAPE"],
        ["ERM", "DFD", "DFD with ten times the weight"], ["concat", "causal", "bias"],
    )  # fmt: skip
    collect(recipe, runs, [*halves, *records[1:], *({**r, "versions": {}} for r in table)], out)


def evidence_record(recipe, setting, seed):
    given = recipe["experiments"][setting["experiment"]]
    place = (*setting.values(), seed)
    asked = {a["minus"].get("number", a["of"]) for a in given["answers"].values()}
    asked |= {answer["of"] for answer in given["answers"].values()}
    rules = sorted({n.split()[1] for n in asked if n.split()[0] in ("auroc", "drop", "shift")})
    worlds = ("id", "shifted")
    methods = {
        name: {
            "auroc": {rule: {w: made(*place, name, rule, w) for w in worlds} for rule in rules},
            "shift": {n.split()[1]: made(*place, name, n) for n in asked if "shift " in n},
            "probes": {n: made(*place, name, n) for n in asked if "probe " in n},
            "planes": {n: made(*place, name, n) for n in asked if "tsne " in n},
            "signatures": [{"quantity": "tau", "value": made(*place, name), "ok": True}],
        }
        for name in given["backbones"][setting["backbone"]]
    }
    best = {w: made(*place, w, low=0.7, high=0.8) for w in worlds}
    cohort = {"oracles": {"oracle": best}}
    if given.get("reach") == "open":
        n = {"id": 30, "shifted": 40}
        cohort = {"labels": {w: [float(k % 3 == 0) for k in range(n[w])] for w in n}}
        for name, measured in methods.items():
            measured["scores"] = {
                w: {
                    rule: [made(*place, name, w, rule, str(k), low=-2, high=2) for k in range(n[w])]
                    for rule in rules
                }
                for w in n
            }
    return {
        "setting": setting,
        "seed": seed,
        "values": {"cohort": cohort, "methods": methods},
        "versions": {"torch": "2"},
    }


def search(patch, runs, out):
    recipe = recipe_of("label-free-search")
    recipe["jobs"] = [
        {"number": [0, 1, 2, 3], "data": "data"},
        {"number": ["picked"], "data": "data"},
    ]
    records = []

    def scores(number, name, seed, *names):
        tried = {
            rule: {w: made(*names, rule, w, low=0.7, high=0.99) for w in WORLDS}
            for rule in recipe["rules"]
        }
        erm = {world: made(*names, world, low=0.5, high=0.9) for world in WORLDS}
        best = {world: made(*names, world, low=0.9, high=0.95) for world in WORLDS}
        values = {
            "cohort": {"oracles": {"oracle": best}},
            "methods": {"ERM": {"auroc": {"own": erm}}, "tried": {"auroc": tried}},
        }
        setting = {"number": number, "data": name}
        records.append({"setting": setting, "seed": seed, "values": values})

    for name in recipe["data"]:
        for number in range(4):
            for seed in recipe["tuning_seeds"]:
                scores(number, name, seed, number, name, seed)
        for seed in SEEDS:
            scores("picked", name, seed, "fresh", name, seed)
    collect(recipe, runs, records, out)


def insight(patch, runs, out):
    many = list(range(12))
    recipe = recipe_of("causal-insight")
    recipe["truth"]["seeds"] = many
    recipe["open"] |= {"n_boot": 200, "n_permutations": 199, "seeds": SEEDS}
    wrong = {"mar": 0.0, "mnar-latent": 0.1, "mnar-self": 0.5}
    recipe["jobs"] = {"preset": list(wrong)}
    kind, measures = import_module("answers.insight"), import_module("measures.insight")

    def guessed(cohort, *_, seed, **__):
        if cohort.task == "binary":
            p = probabilities(cohort, "mask", seed)
            return np.column_stack([1 - p, p])
        return np.random.default_rng(seed).dirichlet(np.ones(cohort.schema.n_classes), len(cohort))

    # nothing is trained here, since processors would not agree to the ninth digit
    patch.setattr(import_module("answers.insight_heart"), "out_of_fold", guessed)
    statements = measures.tests()
    implied = {
        name: [kind.causal.d_separated(graph, *test[:2], test.given) for test in statements]
        for name, graph in kind.candidates(recipe).items()
    }
    records = []
    for preset, often in wrong.items():
        for seed in many:
            # tests say what the graph says, but for a share that is wrong
            p = [
                share(preset, seed, k, "p") if silent != (share(preset, seed, k) < often) else 1e-9
                for k, silent in enumerate(implied[preset])
            ]
            values = {"cohort": {"independences": p}, "methods": {}}
            records.append({"setting": {"preset": preset}, "seed": seed, "values": values})
    collect(recipe, runs, records, out)


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
    recipe = recipe_of("phantom") | {"n_test": 400, "n_boot": 50}
    test = data.load("phantom", n=400, size=16, world="id", seed=recipe["test_seed"])
    drawn, records = import_module("measures.phantom").drawn(), []
    for view in ("frontal", "lateral"):
        for seed in SEEDS:
            rng = np.random.default_rng([seed, len(view), ord(view[0])])
            scores = (test.y.numpy() + rng.standard_normal(test.y.shape)).round(5).tolist()
            values = {
                "cohort": {"generator": drawn},
                "methods": {"network": {"findings": scores}},
            }
            records.append({"setting": {"view": view}, "seed": seed, "values": values})
    collect(recipe, runs, records, out / "phantom.json")


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
        routes, strengths, presets, hospitals, hospital_routes, gate, main_table,
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
        path.stem
        for path in WORKFLOW.glob("*.py")
        if "\ndef collect(files" in path.read_text("utf-8")
    }
    # insight_heart has no records, and stands with insight
    there |= {path.stem for path in (WORKFLOW / "answers").glob("[a-z]*.py")} - {"insight_heart"}
    assert there == CASES.keys()
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
