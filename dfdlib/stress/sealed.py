"""Sealed stress cohorts: thirteen departures that no method was made on.

Rule of use. These generators, their seeds and the hash of what they draw were committed before any
method was compared on stress cohorts, and before the method that the book recommends was written.
A method is run on them **once**, when it is frozen in a commit. It is run on them again only after
a repair that is listed, with its reason, beside the table; both tables are kept. Whoever looks at
one of these cohorts to improve a method makes it an open one, and has to say so. Nothing below may
be changed: `tests/stress/test_sealed.py` recomputes the hash.

They differ from the open kinds in form: where the bias hides, what carries it, what the causes are
made of, and what a hospital does to a measurement. Parameters vary from draw to draw.
"""

from collections.abc import Iterable

import numpy as np

from dfdlib.data.synthetic_model import AVAILABILITY, sigmoid
from dfdlib.stress.drawing import (
    BLOCK,
    Drawn,
    Kind,
    Setting,
    averaged,
    by_name,
    hidden,
    integrated,
)

MODALITIES = ("vitals", "labs", "ecg", "notes")
VISITS = tuple(f"visit_{k}" for k in range(1, 6))

#: Of what all kinds draw, as `tests/stress/test_sealed.py` computes it.
SHA256 = "e68d661b500225fed979998bff75d9f4ac2b756346ecaef4c0412a041bfffe72"


def _agreement(setting: Setting, *ranges: tuple[float, float]) -> np.ndarray:
    """Log-odds that the bias agrees with its cause: per training hospital, then the shifted one."""
    return np.array(
        [setting.between(f"agreement {k}", *pair, 1)[0] for k, pair in enumerate(ranges)]
    )


def _weights(setting: Setting, size: int) -> np.ndarray:
    """How much each cause counts: different, of length 1."""
    weights = setting.between("weights", 0.6, 1.4, size)
    return weights / np.sqrt((weights**2).sum())


def _sum(parts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.einsum("nm,m->n", parts, weights)


def _parents(
    causes: Iterable[str], shown: Iterable[str], *, follows: str = "C"
) -> dict[str, list[str]]:
    """The graph that most kinds share: causes and confounder make Y, the bias follows one of both.

    What the modalities show of the bias follows the bias alone.
    """
    parents: dict[str, list[str]] = {"E": [], "C": []}
    parents |= {a: [] for a in causes}
    parents |= {"Y": ["C", *causes], "B": [follows, "E"]}
    return parents | {s: ["B"] for s in shown}


def between_modalities(setting: Setting) -> Drawn:
    """The bias is a product over two modalities: neither of them shows it alone."""
    agreement = _agreement(setting, (2.6, 3.4), (1.2, 1.8), (-3.4, -2.6))
    slope, push = setting.between("sizes", 2.0, 2.6, 2)
    site, confounder = setting.hospitals(2), setting.sign("C")
    parts = setting.normal("A", 4)
    index = slope * _sum(parts, _weights(setting, 4))
    y = setting.outcome(index + push * confounder)
    bias = setting.follow("B", confounder, agreement[site])
    x, shown, coins = {}, {}, {}
    for first, second in ((0, 1), (2, 3)):
        pair = f"{MODALITIES[first]}_{MODALITIES[second]}"
        shown[f"S_{pair}"] = setting.shown(f"S_{pair}", bias)
        coins[f"K_{pair}"] = setting.sign(f"K_{pair}")
        halves = (coins[f"K_{pair}"], coins[f"K_{pair}"] * shown[f"S_{pair}"])
        for place, half in zip((first, second), halves, strict=True):
            name = MODALITIES[place]
            blocks = (setting.cause(name, parts[:, place]), setting.signs(name, half))
            x[name] = np.hstack(blocks)
    causes = by_name("A", parts, MODALITIES)
    parents = _parents(causes, shown) | {k: [] for k in coins}
    nodes = {"E": site, "C": confounder, **causes, "Y": y, "B": bias, **shown, **coins}
    return Drawn(
        x=x, site=site, y=y, p_do=averaged(index, push), nodes=nodes, graph=setting.graph(parents)
    )


def heavy_tails(setting: Setting) -> Drawn:
    """Causes and noise have heavy tails: Student's t with 3 and 2 degrees of freedom."""
    agreement = _agreement(setting, (1.4, 1.8), (0.5, 0.8), (-1.8, -1.4))
    slope, push = setting.between("sizes", 1.8, 2.4, 2)
    site, confounder = setting.hospitals(2), setting.sign("C")
    parts = setting.noise.stream("A").standard_t(3, (setting.n, 4)) / np.sqrt(3)
    index = 1.3 * slope * _sum(parts, _weights(setting, 4))
    y = setting.outcome(index + push * confounder)
    pull = 0.0 if setting.randomised else agreement[site]
    bias = pull * confounder + setting.normal("B")
    x, shown = {}, {}
    for place, name in enumerate(MODALITIES):
        stream = setting.noise.stream(f"S_{name}")
        tails = stream.standard_t(2, (setting.n, BLOCK)) * 0.8
        shown[f"S_{name}"] = bias + tails[:, 0]
        idle = setting.noise.stream(f"idle {name}").standard_t(3, (setting.n, BLOCK - 1))
        x[name] = np.column_stack([parts[:, place], idle, bias[:, None] + tails])
    causes = by_name("A", parts, MODALITIES)
    parents = _parents(causes, shown)
    nodes = {"E": site, "C": confounder, **causes, "Y": y, "B": bias, **shown}
    return Drawn(
        x=x, site=site, y=y, p_do=averaged(index, push), nodes=nodes, graph=setting.graph(parents)
    )


def missing_only(setting: Setting) -> Drawn:
    """No feature is biased: which of two tests were done together tells the confounder.

    Where B is 1 one of labs and ecg was done, else both or neither: each alone says nothing.
    """
    agreement = _agreement(setting, (2.8, 3.4), (1.2, 1.8), (-3.2, -2.6))
    slope, push = setting.between("sizes", 2.0, 2.6, 2)
    site, confounder = setting.hospitals(2), setting.sign("C")
    parts = setting.normal("A", 4)
    weights = _weights(setting, 4)
    y = setting.outcome(slope * _sum(parts, weights) + push * confounder)
    bias = setting.follow("B", confounder, agreement[site])
    together = setting.shown("S", bias)
    labs = setting.uniform("R_labs") < 0.5
    ecg = np.where(together > 0, ~labs, labs)
    notes = setting.uniform("R_notes") < AVAILABILITY
    observed = np.column_stack([np.ones(setting.n, dtype=bool), labs, ecg, notes])
    spread = slope * np.sqrt(_sum(~observed * 1.0, weights**2))
    p_do = integrated(
        slope * _sum(hidden(observed, parts), weights), spread, lambda z: averaged(z, push)
    )
    x = {
        name: np.hstack([setting.cause(name, parts[:, k]), setting.normal(f"idle {name}", BLOCK)])
        for k, name in enumerate(MODALITIES)
    }
    causes = by_name("A", parts, MODALITIES)
    parents = _parents(causes, ("S",))
    parents |= {"R_labs": [], "R_ecg": ["R_labs", "S"], "R_notes": []}
    nodes = {"E": site, "C": confounder, **causes, "Y": y, "B": bias, "S": together}
    nodes |= {"R_labs": labs * 1, "R_ecg": ecg * 1, "R_notes": notes * 1}
    return Drawn(
        x=x,
        site=site,
        y=y,
        p_do=p_do,
        nodes=nodes,
        graph=setting.graph(parents),
        observed=observed,
    )


def steps_and_waves(setting: Setting) -> Drawn:
    """Causes act by thresholds and periodically, and the bias bends what carries it."""
    agreement = _agreement(setting, (1.4, 1.9), (0.5, 0.9), (-1.9, -1.4))
    push = setting.between("push", 2.0, 2.5, 1)[0]
    step, wave = setting.between("step", 2.2, 3.0, 4), setting.between("wave", 0.9, 1.5, 4)
    cut, pace = setting.between("cut", -0.5, 0.5, 4), setting.between("pace", 1.6, 2.4, 4)
    phase = setting.between("phase", 0.0, np.pi, 4)
    site, confounder = setting.hospitals(3), setting.sign("C")
    agreement = np.array([agreement[0], agreement[1], agreement[:2].mean(), agreement[2]])
    parts = setting.normal("A", 4)
    index = ((parts > cut) - 0.5) @ step + np.sin(pace * parts) @ wave
    y = setting.outcome(index + push * confounder)
    bias = (0.0 if setting.randomised else agreement[site]) * confounder + setting.normal("B")
    x, shown = {}, {}
    for place, name in enumerate(MODALITIES):
        noise = 0.6 * setting.normal(f"S_{name}", BLOCK)
        bent = [np.sin(bias + phase[place]), np.cos(bias + phase[place]), np.abs(bias)]
        values = np.column_stack(bent) + noise
        shown[f"S_{name}"] = values[:, 0]
        idle = setting.normal(f"idle {name}", BLOCK - 1)
        x[name] = np.column_stack([parts[:, place], idle, values])
    causes = by_name("A", parts, MODALITIES)
    parents = _parents(causes, shown)
    nodes = {"E": site, "C": confounder, **causes, "Y": y, "B": bias, **shown}
    return Drawn(
        x=x, site=site, y=y, p_do=averaged(index, push), nodes=nodes, graph=setting.graph(parents)
    )


def two_populations(setting: Setting) -> Drawn:
    """Two kinds of patients, unlabelled: causes act otherwise in each, bias in one alone."""
    agreement = _agreement(setting, (2.8, 3.4), (1.0, 1.6), (-3.4, -2.8))
    slope, push = setting.between("sizes", 2.0, 2.6, 2)
    share = setting.between("share", 0.35, 0.5, 1)[0]
    apart = setting.between("apart", 0.7, 1.1, 4)
    weights = np.stack([_weights(setting, 4)] * 2)
    weights[1, :2] = -0.4 * weights[1, :2]
    site, confounder = setting.hospitals(2), setting.sign("C")
    population = (setting.uniform("T") < share).astype(np.int64)
    centre = np.stack([-apart, apart]) / 2
    parts = centre[population] + setting.normal("A", 4)
    index = slope * np.stack([_sum(parts, w) for w in weights])
    y = setting.outcome(index[population, np.arange(setting.n)] + push * confounder)
    bias = setting.follow("B", confounder, agreement[site] * population)
    # log P(features | population), up to what both share
    log_density = np.stack([-((parts - mean) ** 2).sum(axis=1) / 2 for mean in centre])
    second = sigmoid(log_density[1] - log_density[0] + np.log(share / (1 - share)))
    p_do = (1 - second) * averaged(index[0], push) + second * averaged(index[1], push)
    x, shown = {}, {}
    for place, name in enumerate(MODALITIES):
        shown[f"S_{name}"] = setting.shown(f"S_{name}", bias)
        idle = setting.normal(f"idle {name}", BLOCK - 1)
        block = setting.signs(name, shown[f"S_{name}"])
        x[name] = np.column_stack([parts[:, place], idle, block])
    causes = by_name("A", parts, MODALITIES)
    parents = _parents(causes, shown) | {"T": [], **{a: ["T"] for a in causes}}
    parents |= {"Y": ["C", "T", *causes], "B": ["C", "E", "T"]}
    nodes = {"E": site, "C": confounder, "T": population, **causes, "Y": y, "B": bias, **shown}
    return Drawn(
        x=x,
        site=site,
        y=y,
        p_do=p_do,
        nodes=nodes,
        graph=setting.graph(parents, latent=("C", "B", "T")),
    )


def copied_forward(setting: Setting) -> Drawn:
    """Five visits in time: a drifting state, and notes that are copied from one visit to the next.

    Patients leave, rather those whose first state was low: later visits are missing.
    """
    agreement = _agreement(setting, (2.6, 3.2), (1.2, 1.7), (-3.2, -2.6))
    slope, push = setting.between("sizes", 2.0, 2.6, 2)
    keep = setting.between("keep", 0.6, 0.85, 1)[0]
    trend = setting.between("trend", 0.3, 0.6, 1)[0]
    site, confounder = setting.hospitals(2), setting.sign("C")
    innovation = setting.normal("A", len(VISITS))
    state = innovation.copy()
    for k in range(1, len(VISITS)):
        state[:, k] = keep * state[:, k - 1] + np.sqrt(1 - keep**2) * innovation[:, k]
    y = setting.outcome(slope * (state[:, -1] - trend * state[:, 0]) + push * confounder)
    bias = setting.follow("B", confounder, agreement[site])
    x, shown, copy = {}, {}, np.zeros(setting.n)
    for k, name in enumerate(VISITS):
        fresh = setting.shown(f"S_{name}", bias)
        copied = (setting.uniform(f"copied {name}") < 0.7) & (k > 0)
        copy = np.where(copied, copy, fresh)
        shown[f"S_{name}"] = copy
        x[name] = np.hstack([setting.cause(name, state[:, k]), setting.signs(name, copy)])
    # a visit is there where the one before it was, the first two always
    stay = setting.uniform("R", len(VISITS) - 2) < sigmoid(
        1.7 + (0.0 if setting.randomised else 1.0) * state[:, :1]
    )
    observed = np.hstack(
        [np.ones((setting.n, 2), dtype=bool), np.logical_and.accumulate(stay, axis=1)]
    )
    last = observed.sum(axis=1) - 1
    decay = keep ** (len(VISITS) - 1 - last)
    mean = decay * state[np.arange(setting.n), last] - trend * state[:, 0]
    p_do = integrated(slope * mean, slope * np.sqrt(1 - decay**2), lambda z: averaged(z, push))
    causes = by_name("A", state, VISITS)
    parents = _parents(causes, shown) | {"Y": ["C", "A_visit_1", "A_visit_5"]}
    parents |= {a: list(causes)[max(k - 1, 0) : k] for k, a in enumerate(causes)}
    parents |= {s: ["B", *list(shown)[max(k - 1, 0) : k]] for k, s in enumerate(shown)}
    mask = {f"R_{name}": observed[:, k] * 1 for k, name in enumerate(VISITS) if k > 1}
    above = {r: [*list(mask)[max(k - 1, 0) : k], "A_visit_1"] for k, r in enumerate(mask)}
    if setting.randomised:
        above = {r: [p for p in parent if p in mask] for r, parent in above.items()}
    nodes = {"E": site, "C": confounder, **causes, "Y": y, "B": bias, **shown, **mask}
    return Drawn(
        x=x,
        site=site,
        y=y,
        p_do=p_do,
        nodes=nodes,
        graph=setting.graph(parents | above),
        observed=observed,
    )


def counts_and_scores(setting: Setting) -> Drawn:
    """Counts, ordinal scores and a ward: nothing is normal, and the ward follows the bias too."""
    agreement = _agreement(setting, (2.6, 3.4), (1.2, 1.8), (-3.4, -2.6))
    slope, push = setting.between("sizes", 2.0, 2.6, 2)
    weights = _weights(setting, 4)
    site, confounder = setting.hospitals(2), setting.sign("C")
    bias = setting.follow("B", confounder, agreement[site])
    need = setting.normal("G", 4)
    counts = setting.noise.stream("A").poisson(np.exp(0.4 + 0.7 * need[:, :2]))
    scores = np.digitize(need[:, 2:], [-1.0, -0.2, 0.6, 1.3])
    # as in the mean and spread of these counts and scores, to two digits
    parts = np.hstack([(np.log1p(counts) - 0.93) / 0.63, (scores - 1.75) / 1.18])
    index = slope * _sum(parts, weights)
    y = setting.outcome(index + push * confounder)
    shown = {f"S_{m}": setting.shown(f"S_{m}", bias) for m in ("visits", "pain", "ward")}
    rate = setting.noise.stream("spurious visits").poisson(
        np.exp(0.9 + 0.5 * shown["S_visits"])[:, None], (setting.n, BLOCK)
    )
    grade = np.digitize(
        0.9 * shown["S_pain"][:, None] + setting.normal("spurious pain", BLOCK), [-1.0, 0.0, 1.0]
    )
    likely = setting.between("wards", 0.2, 1.0, 2, 5)
    edges = np.cumsum(likely / likely.sum(axis=1, keepdims=True), axis=1)[:, :-1]
    row = edges[(shown["S_ward"] > 0).astype(int)]
    ward = (setting.uniform("ward")[:, None] > row).sum(axis=1)
    x = {
        "visits": np.column_stack([counts, rate]).astype(float),
        "pain": np.column_stack([scores, grade]).astype(float),
        "ward": ward[:, None],
    }
    names = ("visits_1", "visits_2", "pain_1", "pain_2")
    causes = by_name("A", parts, names)
    parents = _parents(causes, shown)
    nodes = {"E": site, "C": confounder, **causes, "Y": y, "B": bias, **shown}
    return Drawn(
        x=x,
        site=site,
        y=y,
        p_do=averaged(index, push),
        nodes=nodes,
        graph=setting.graph(parents),
        kinds={"ward": "categorical"},
    )


def other_units(setting: Setting) -> Drawn:
    """Each of four hospitals measures causes on a scale of its own, beside a bias.

    Which hospital it was has to be guessed from the values; p_do does so exactly.
    """
    agreement = _agreement(setting, (2.8, 3.4), (2.0, 2.6), (1.4, 1.8), (0.8, 1.2), (-3.2, -2.6))
    slope, push = setting.between("sizes", 2.0, 2.6, 2)
    scale = np.exp(setting.between("scale", -0.35, 0.35, 5, 4))
    offset = setting.between("offset", -0.4, 0.4, 5, 4)
    weights = _weights(setting, 4)
    site, confounder = setting.hospitals(4), setting.sign("C")
    parts = setting.normal("A", 4)
    y = setting.outcome(slope * _sum(parts, weights) + push * confounder)
    bias = setting.follow("B", confounder, agreement[site])
    x, shown = {}, {}
    log_density, index = np.zeros((4, setting.n)), np.zeros((4, setting.n))
    for place, name in enumerate(MODALITIES):
        true = setting.cause(name, parts[:, place])
        recorded = offset[site, place][:, None] + scale[site, place][:, None] * true
        for e in range(4):
            guess = (recorded - offset[e, place]) / scale[e, place]
            log_density[e] -= (guess**2).sum(axis=1) / 2 + BLOCK * np.log(scale[e, place])
            index[e] += slope * weights[place] * guess.sum(axis=1) / np.sqrt(BLOCK)
        shown[f"S_{name}"] = setting.shown(f"S_{name}", bias)
        x[name] = np.hstack([recorded, setting.signs(name, shown[f"S_{name}"])])
    density = np.exp(log_density - log_density.max(axis=0))
    p_do = (density * averaged(index, push)).sum(axis=0) / density.sum(axis=0)
    causes = by_name("A", parts, MODALITIES)
    measured = {f"X_{m}": x[m][:, :BLOCK].sum(axis=1) for m in MODALITIES}
    parents = _parents(causes, shown) | {f"X_{m}": [f"A_{m}", "E"] for m in MODALITIES}
    nodes = {"E": site, "C": confounder, **causes, "Y": y, "B": bias, **shown, **measured}
    return Drawn(
        x=x,
        site=site,
        y=y,
        p_do=p_do,
        nodes=nodes,
        graph=setting.graph(parents, latent=("C", "B", *causes)),
    )


def bent_rotation(setting: Setting) -> Drawn:
    """Anticausal, and each modality's features are turned, bent and turned again: one to one."""
    agreement = _agreement(setting, (1.8, 2.4), (0.8, 1.2), (-2.4, -1.8))
    slope, push = setting.between("sizes", 2.0, 2.6, 2)
    site, confounder = setting.hospitals(2), setting.sign("C")
    parts = setting.normal("A", 4)
    index = slope * _sum(parts, _weights(setting, 4))
    y = setting.outcome(index + push * confounder)
    bias = setting.follow("B", 2.0 * y - 1, agreement[site])
    x, shown = {}, {}
    for place, name in enumerate(MODALITIES):
        shown[f"S_{name}"] = setting.shown(f"S_{name}", bias)
        loud = 0.6 * shown[f"S_{name}"][:, None] + setting.normal(f"spurious {name}", BLOCK)
        values = np.hstack([setting.cause(name, parts[:, place]), loud])
        for turn in ("first", "second"):
            # a turn that any processor computes alike: reflections at three directions
            for k in range(3):
                v = setting.parameters.stream(f"{turn} {k} {name}").standard_normal(2 * BLOCK)
                v = v / np.sqrt((v**2).sum())
                values = values - 2 * np.einsum("nd,d->n", values, v)[:, None] * v
            if turn == "first":
                values = values + 0.8 * np.sin(values)
        x[name] = values
    causes = by_name("A", parts, MODALITIES)
    parents = _parents(causes, shown, follows="Y")
    nodes = {"E": site, "C": confounder, **causes, "Y": y, "B": bias, **shown}
    return Drawn(
        x=x,
        site=site,
        y=y,
        p_do=averaged(index, push),
        nodes=nodes,
        graph=setting.graph(parents, latent=("C", "B", *causes, *shown)),
    )


def latent_classes(setting: Setting) -> Drawn:
    """Four unseen classes of illness make the outcome and sixteen yes-or-no findings."""
    agreement = _agreement(setting, (2.6, 3.2), (1.8, 2.2), (0.8, 1.2), (-3.2, -2.6))
    push = setting.between("push", 1.8, 2.3, 1)[0]
    levels = np.array([-2.6, -1.2, 1.2, 2.6]) * setting.between("slope", 0.9, 1.2, 1)[0]
    likely = setting.between("findings", 0.1, 0.9, 4, 16)
    site, confounder = setting.hospitals(3), setting.sign("C")
    which = (setting.uniform("T") * 4).astype(np.int64)
    y = setting.outcome(levels[which] + push * confounder)
    bias = setting.follow("B", confounder, agreement[site])
    found = setting.uniform("A", 16) < likely[which]
    there = setting.uniform("R", 16) < 0.85
    log_density = np.stack(
        [(there * np.log(np.where(found, p, 1 - p))).sum(axis=1) for p in likely]
    )
    density = np.exp(log_density - log_density.max(axis=0))
    posterior = density / density.sum(axis=0)
    p_do = np.einsum("kn,k->n", posterior, averaged(levels, push))
    x, shown = {}, {}
    for place, name in enumerate(MODALITIES):
        columns = slice(4 * place, 4 * place + 4)
        shown[f"S_{name}"] = setting.shown(f"S_{name}", bias)
        said = sigmoid(1.4 * shown[f"S_{name}"])[:, None]
        findings = np.where(there[:, columns], found[:, columns], np.nan)
        x[name] = np.hstack([findings, setting.uniform(f"spurious {name}", 2) < said])
    causes = by_name("A", found * 1, [str(k) for k in range(16)])
    parents = _parents(causes, shown) | {"T": [], **{a: ["T"] for a in causes}, "Y": ["C", "T"]}
    nodes = {"E": site, "C": confounder, "T": which, **causes, "Y": y, "B": bias, **shown}
    return Drawn(
        x=x,
        site=site,
        y=y,
        p_do=p_do,
        nodes=nodes,
        graph=setting.graph(parents, latent=("C", "B", "T", *shown)),
    )


def bias_in_context(setting: Setting) -> Drawn:
    """Anticausal, and only where a cause is high: elsewhere the bias is weak and turned around."""
    agreement = _agreement(setting, (2.6, 3.2), (1.2, 1.6), (-3.0, -2.4))
    slope, push = setting.between("sizes", 2.0, 2.6, 2)
    site, confounder = setting.hospitals(2), setting.sign("C")
    parts = setting.normal("A", 4)
    index = slope * _sum(parts, _weights(setting, 4))
    y = setting.outcome(index + push * confounder)
    context = np.where(parts[:, 0] > 0, 1.0, -0.4)
    bias = setting.follow("B", 2.0 * y - 1, agreement[site] * context)
    x, shown = {}, {}
    for place, name in enumerate(MODALITIES):
        shown[f"S_{name}"] = setting.shown(f"S_{name}", bias)
        blocks = (setting.cause(name, parts[:, place]), setting.signs(name, shown[f"S_{name}"]))
        x[name] = np.hstack(blocks)
    causes = by_name("A", parts, MODALITIES)
    parents = _parents(causes, shown) | {"B": ["Y", "E", "A_vitals"]}
    nodes = {"E": site, "C": confounder, **causes, "Y": y, "B": bias, **shown}
    return Drawn(
        x=x, site=site, y=y, p_do=averaged(index, push), nodes=nodes, graph=setting.graph(parents)
    )


def bias_in_the_spread(setting: Setting) -> Drawn:
    """The bias makes measurements noisier and moves no mean."""
    agreement = _agreement(setting, (2.6, 3.4), (1.2, 1.8), (-3.4, -2.6))
    slope, push = setting.between("sizes", 2.0, 2.6, 2)
    louder = setting.between("louder", 0.6, 0.8, 1)[0]
    site, confounder = setting.hospitals(2), setting.sign("C")
    parts = setting.normal("A", 4)
    index = slope * _sum(parts, _weights(setting, 4))
    y = setting.outcome(index + push * confounder)
    bias = setting.follow("B", confounder, agreement[site])
    x, shown = {}, {}
    for place, name in enumerate(MODALITIES):
        shown[f"S_{name}"] = setting.shown(f"S_{name}", bias)
        noise = np.exp(louder * shown[f"S_{name}"])[:, None] * setting.normal(f"N_{name}", BLOCK)
        x[name] = np.hstack([setting.cause(name, parts[:, place]), noise])
    causes = by_name("A", parts, MODALITIES)
    parents = _parents(causes, shown)
    nodes = {"E": site, "C": confounder, **causes, "Y": y, "B": bias, **shown}
    return Drawn(
        x=x, site=site, y=y, p_do=averaged(index, push), nodes=nodes, graph=setting.graph(parents)
    )


def noisy_device(setting: Setting) -> Drawn:
    """No bias at all: each of three hospitals measures one of the causes badly, another each.

    What a hospital measures badly has a smaller slope there, with nothing to be corrected.
    """
    slope, push = setting.between("sizes", 2.2, 2.8, 2)
    weights = _weights(setting, 4)
    good, bad = setting.between("good", 0.1, 0.3, 1)[0], setting.between("bad", 0.8, 1.3, 1)[0]
    error = np.full((4, 4), good)
    np.fill_diagonal(error, bad)  # the shifted hospital's is the notes
    site, confounder = setting.hospitals(3), setting.sign("C")
    parts = setting.normal("A", 4)
    y = setting.outcome(slope * _sum(parts, weights) + push * confounder)
    measured = parts + error[site] * setting.normal("X", 4)
    total, p_do = np.zeros(setting.n), np.zeros(setting.n)
    for e in range(3):
        variance = 1 + error[e] ** 2
        log_density = -(measured**2 / variance).sum(axis=1) / 2 - np.log(variance).sum() / 2
        mean = slope * _sum(measured, weights / variance)
        spread = slope * np.sqrt((weights**2 * error[e] ** 2 / variance).sum())
        p = integrated(mean, np.full(setting.n, spread), lambda z: averaged(z, push))
        total += np.exp(log_density)
        p_do += np.exp(log_density) * p
    x = {
        name: np.column_stack([measured[:, k], setting.normal(f"idle {name}", 2)])
        for k, name in enumerate(MODALITIES)
    }
    causes, readings = by_name("A", parts, MODALITIES), by_name("X", measured, MODALITIES)
    parents: dict[str, list[str]] = {"E": [], "C": [], **{a: [] for a in causes}}
    parents |= {"Y": ["C", *causes]}
    parents |= {f"X_{m}": [f"A_{m}", "E"] for m in MODALITIES}
    nodes = {"E": site, "C": confounder, **causes, "Y": y, **readings}
    return Drawn(
        x=x,
        site=site,
        y=y,
        p_do=p_do / total,
        nodes=nodes,
        graph=setting.graph(parents, latent=("C", *causes), cut=()),
    )


SEALED = {
    "between-modalities": Kind(
        "the bias is a product over two modalities", "confounded", 2, between_modalities
    ),
    "heavy-tails": Kind("causes and noise with heavy tails", "confounded", 2, heavy_tails),
    "missing-only": Kind("bias in which tests go together", "confounded", 2, missing_only),
    "steps-and-waves": Kind("thresholds and periods", "confounded", 3, steps_and_waves),
    "two-populations": Kind("a mixture of two populations", "confounded", 2, two_populations),
    "copied-forward": Kind(
        "visits in time, copied notes, drop-out", "confounded", 2, copied_forward
    ),
    "counts-and-scores": Kind(
        "counts, ordinal scores, a categorical ward", "confounded", 2, counts_and_scores
    ),
    "other-units": Kind("hospitals measure on other scales", "confounded", 4, other_units),
    "bent-rotation": Kind("features turned and bent", "anticausal", 2, bent_rotation),
    "latent-classes": Kind("latent classes, yes-or-no findings", "confounded", 3, latent_classes),
    "bias-in-context": Kind("bias where a cause is high", "anticausal", 2, bias_in_context),
    "bias-in-the-spread": Kind("bias in spread, in no mean", "confounded", 2, bias_in_the_spread),
    "noisy-device": Kind("no bias; measurement error differs", "unbiased", 3, noisy_device),
}
