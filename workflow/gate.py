"""What DFD's gate sees: gates × presets × backbones, against the bias that edges carry.

    F=runs/gate
    python workflow/gate.py run --preset own-modalities --backbone GRAPE --seed 0 --out $F/a.json
    python workflow/gate.py collect $F/*.json --out results/dfd-gate

`run` trains DFD with every gate of a preset and backbone on one seed, and reads the gate on other
patients; `collect` puts the seeds together, with a result for each learned gate: the others are
controls, and stand in the first of them.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pandas as pd
import torch
import yaml
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from dfdlib import data, models
from dfdlib.data import Cohort
from dfdlib.data.synthetic import PRESETS
from dfdlib.evaluation import predict_proba, write_result
from dfdlib.evaluation.compare import paired_intervals
from dfdlib.files import slug, write_whole
from dfdlib.models import DFD, Stage
from dfdlib.models.gate import Gate
from dfdlib.training import fit

SETTINGS = yaml.safe_load((Path(__file__).parent / "gate.yaml").read_text("utf-8"))
SHARED = ("network", "epochs", "batch_size", "options", "n_train", "n_test", "test_seed", "alpha")
SCORE = SETTINGS["score"]
KINDS = ("cause", "spurious")
LEARNED, FROZEN, CONSTANT = "learned", "frozen", "constant"


class Hand(nn.Module):
    """A gate put by hand: one tau per modality."""

    tau: Tensor

    def __init__(self, tau: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("tau", torch.as_tensor(tau, dtype=torch.float32))

    def forward(self, tokens: Tensor) -> Tensor:
        """Give every patient the same."""
        return self.tau.expand(tokens.shape[:2])


def load(preset: str, world: str, n: int, seed: int) -> Cohort:
    """Draw a cohort of a preset."""
    return data.load("synthetic", n=n, world=world, seed=seed, **PRESETS[preset])


def train(gate: str, preset: str, backbone: str, seed: int) -> DFD:
    """Train DFD with one of the gates."""
    cohort = load(preset, "train", SETTINGS["n_train"], seed)
    given, network = dict(SETTINGS["gates"][gate]), SETTINGS["network"]
    by_hand = given.pop("set", None)
    net = getattr(models, backbone)(d=network["d"])
    model = DFD(backbone=net, schema=cohort.schema, **SETTINGS["options"], **given)
    if by_hand is not None:
        cause, _ = roles(cohort)
        model.gate_net = Hand(np.where(cause, by_hand, 1 - by_hand))
    warm, joint = SETTINGS["epochs"]
    with warnings.catch_warnings():
        # what DFD says of a run stands in `signatures`, which is kept
        warnings.simplefilter("ignore", UserWarning)
        fit(
            model,
            cohort,
            stages=[Stage(epochs=warm, mi_weight=0), Stage(epochs=joint)],
            batch_size=SETTINGS["batch_size"],
            lr=network["lr"],
            weight_decay=network["weight_decay"],
            seed=seed,
        )
    return model.eval()


def roles(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """Which modalities hold causal, and which biased features."""
    features = cohort.schema.features
    found = [[any(f.startswith(kind) for f in features[m]) for m in cohort.names] for kind in KINDS]
    return np.array(found[0]), np.array(found[1])


def shares(cohort: Cohort, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much cause and bias each edge carries: (M,) each; (M, d) where edges carry both.

    Of a channel it is the share of its variance that a line through A, what the modality says of
    causes, or through S, what it shows of the spurious attribute, accounts for. The two are
    independent.
    """
    cause, bias = roles(cohort)
    if not (cause & bias).any():
        return cause.astype(float), bias.astype(float)
    found = np.zeros((2, *tokens.shape[1:]))
    for m, name in enumerate(cohort.names):
        values = pd.DataFrame(cohort.x[name].numpy(), columns=cohort.schema.features[name])
        own = values.filter(like="cause").sum(axis=1), np.sign(values["spurious_1"])
        for k, part in enumerate(own):
            found[k, m] = [np.corrcoef(channel, part)[0, 1] ** 2 for channel in tokens[:, m].T]
    return found[0], found[1]


def gap(tau: np.ndarray, cause: np.ndarray, bias: np.ndarray) -> float:
    """Mean tau where cause is, minus mean tau where bias is."""
    tau = np.broadcast_to(tau.reshape(len(tau), -1), cause.reshape(len(tau), -1).shape)
    return float(
        np.average(tau.ravel(), weights=cause.ravel())
        - np.average(tau.ravel(), weights=bias.ravel())
    )


def agreement(tau: np.ndarray, cause: np.ndarray, bias: np.ndarray) -> float:
    """Pairs of edges in the order that their bias shares ask for, minus those that are not.

    Somers' D: over all pairs whose shares differ; a tie of tau counts for neither.
    """
    tau = np.broadcast_to(tau.reshape(len(tau), -1), cause.reshape(len(tau), -1).shape)
    share = (bias / (bias + cause)).ravel().round(6)
    return -float(stats.somersd(share, tau.ravel()).statistic)


@torch.no_grad()
def look(model: DFD, cohort: Cohort) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Tokens, tau and both streams' embeddings of all patients."""
    tokens, observed = model.tokens(next(cohort.batches(len(cohort))))
    return tokens, model.tau(tokens).numpy(), model.represent(tokens, observed).numpy()


def read(model: DFD, worlds: dict[str, Cohort]) -> dict[str, Any]:
    """Read the gate, by modality and by group of patients, against what edges carry."""
    here = worlds["id"]
    tokens, tau, _ = look(model, here)
    carried = shares(here, tokens.numpy())
    agrees = here.truth["bias"].to_numpy() == 2 * here.y.numpy() - 1
    groups = {"all": np.full(len(here), True)}
    groups |= {site: here.groups["site"] == site for site in np.unique(here.groups["site"])}
    groups |= {"bias agrees with label": agrees, "bias disagrees": ~agrees}
    means = {name: tau[rows].mean(axis=0) for name, rows in groups.items()}
    means["new hospital"] = look(model, worlds["shifted"])[1].mean(axis=0)
    return {
        "gap": gap(means["all"], *carried),
        "agreement": agreement(means["all"], *carried),
        "groups": {
            name: {
                "tau": mean.reshape(len(mean), -1).mean(axis=1).tolist(),
                "gap": gap(mean, *carried),
            }
            for name, mean in means.items()
        },
        "sd": tau.std(axis=0).reshape(tau.shape[1], -1).mean(axis=1).tolist(),
        "random": redrawn(model, tokens, carried),
    }


@torch.no_grad()
def redrawn(model: DFD, tokens: Tensor, carried: tuple[np.ndarray, np.ndarray]) -> list[float]:
    """Gaps of gates drawn anew over the tokens of the trained model."""
    torch.manual_seed(0)
    options = {"d": model.d, "n_modalities": tokens.shape[1], "channels": model.gate_channels}
    gates = (Gate(kind=FROZEN, **options) for _ in range(SETTINGS["n_random"]))
    return [gap(gate(tokens[:2000]).mean(0).numpy(), *carried) for gate in gates]


def known(model: DFD, cohort: Cohort) -> dict[str, dict[str, float]]:
    """AUROC with which a line through H_c, and through H_b, tells bias and cause."""
    *_, h = look(model, cohort)
    half = len(h) // 2
    asked = {"bias": cohort.truth["bias"] > 0, "cause": cohort.truth["severity"] > 0}
    found: dict[str, dict[str, float]] = {}
    for stream, part in zip(("causal", "bias"), np.hsplit(h, 2), strict=True):
        part = (part - part.mean(0)) / np.maximum(part.std(0), 1e-6)
        found[stream] = {
            name: roc_auc_score(
                label[half:],
                LogisticRegression(max_iter=1000).fit(part[:half], label[:half])
                .decision_function(part[half:]),
            )
            for name, label in asked.items()
        }  # fmt: skip
    return found


def run(preset: str, backbone: str, seed: int, out: Path) -> None:
    """Train every gate of a preset and backbone with one seed."""
    worlds = {
        world: load(preset, world, SETTINGS["n_test"], SETTINGS["test_seed"])
        for world in SETTINGS["worlds"]
    }
    found = {}
    for name in SETTINGS["grid"][preset][backbone]:
        model = train(name, preset, backbone, seed)
        scores = {}
        for rule in SETTINGS["rules"]:
            model.predict = rule
            scores[rule] = {
                world: roc_auc_score(cohort.y.numpy(), predict_proba(model, cohort)[:, 1])
                for world, cohort in worlds.items()
            }
        found[name] = {
            **read(model, worlds),
            "scores": scores,
            "probe": known(model, worlds["randomised"]),
            "signatures": model.signatures[["quantity", "value", "ok"]].to_dict("records"),
        }
    record = {"preset": preset, "backbone": backbone, "seed": seed, "gates": found}
    write_whole(out, json.dumps(record, indent=1))


def collect(files: list[Path], out: Path) -> None:
    """Write one result per preset, backbone and gate."""
    records = [json.loads(file.read_text("utf-8")) for file in files]
    for preset, backbones in SETTINGS["grid"].items():
        for backbone in backbones:
            own = {
                record["seed"]: record["gates"]
                for record in records
                if (record["preset"], record["backbone"]) == (preset, backbone)
            }
            if set(own) != set(SETTINGS["seeds"]):
                raise ValueError(f"{preset}, {backbone}: seeds {sorted(own)}. Run all")
            _write_gates(out, preset, backbone, [own[seed] for seed in SETTINGS["seeds"]])


def _write_gates(out: Path, preset: str, backbone: str, runs: list[dict[str, Any]]) -> None:
    """Write the learned gates; the others are controls, and stand with the first of them."""
    gates = pd.DataFrame({name: [run[name] for run in runs] for name in runs[0]})
    gaps = gates.map(lambda one: one["gap"])
    learned = [name for name in gates if name.startswith(LEARNED)]
    frozen = [name.replace(LEARNED, FROZEN) for name in learned]
    gains = gaps[learned].to_numpy() - gaps[frozen].to_numpy()
    effects = paired_intervals(
        gains.T, names=learned, margin=SETTINGS["margin"], alpha=SETTINGS["alpha"]
    )
    told: dict[str, dict[str, Any]] = {
        name: {
            "gate": SETTINGS["gates"][name],
            "seed by seed": gates[name].tolist(),
            "interval of the gap": _alone(gaps[name]),
        }
        for name in gates
    }
    if CONSTANT in gates:
        auroc = gates.map(lambda one: one["scores"][SCORE["rule"]][SCORE["world"]])
        gained = auroc.drop(columns=CONSTANT).sub(auroc[CONSTANT], axis=0)
        against = paired_intervals(
            gained.T.to_numpy(), names=list(gained), margin=SCORE["margin"], alpha=SETTINGS["alpha"]
        )
        for name, row in against.drop(columns="each").iterrows():
            told[str(name)]["against constant"] = row.to_dict()
    controls = {name: told[name] for name in gates if name not in learned}
    for name, effect in effects.iterrows():
        parameters = {key: SETTINGS[key] for key in SHARED} | told[str(name)]
        parameters["p_holm"] = effect["p_holm"]
        if name == learned[0]:
            parameters["controls"] = controls
        write_result(
            out / f"{slug(f'{preset}-{backbone}-{name}')}.json",
            claim="dfd-gate",
            reach="truth",
            dataset=f"synthetic, {preset}",
            method=f"{name}, {backbone}",
            parameters=parameters,
            estimand="mean tau where cause is minus mean tau where bias is (the gap); effect: gap "
            "minus that of the frozen gate",
            margin=SETTINGS["margin"],
            seeds=SETTINGS["seeds"],
            metric="gap",
            runs=[
                {"seed": s, "value": v}
                for s, v in zip(SETTINGS["seeds"], effect["each"], strict=True)
            ],
            effect=effect["effect"],
            low=effect["low"],
            high=effect["high"],
            verdict=effect["verdict"],
            selection="last epoch, fixed settings",
            device="cpu",
            command="make results",
        )


def _alone(gaps: pd.Series) -> list[float]:
    """Mean and interval of a gate's own gap, not paired and not adjusted."""
    alone = paired_intervals(gaps.to_numpy()[None], margin=0, alpha=SETTINGS["alpha"]).iloc[0]
    return alone[["effect", "low", "high"]].tolist()


if __name__ == "__main__":
    torch.set_num_threads(1)
    jobs.main(
        str(__doc__),
        run,
        collect,
        preset={"required": True, "choices": list(SETTINGS["grid"])},
        backbone={"required": True, "choices": ["GRAPE", "TokenTransformer"]},
        seed={"required": True, "type": int},
    )
