"""The rule that decides: by hand, by scipy's intervals, and its errors and power by simulation."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dfdlib.evaluation import Question, decide, decide_together
from dfdlib.evaluation.decide import Decision

Draw = Callable[[np.random.Generator], np.ndarray]


def runs(values: object, patient_se: float = 0.0) -> pd.DataFrame:
    """One row per setting and seed of an array (settings, seeds)."""
    grid = np.atleast_2d(np.asarray(values, float))
    names = [f"setting {k}" for k in range(len(grid))]
    return pd.DataFrame(
        {
            "setting": np.repeat(names, grid.shape[1]),
            "seed": np.tile(np.arange(1000, 1000 + grid.shape[1]), len(grid)),
            "value": grid.ravel(),
            "patient_se": patient_se,
        }
    )


def test_an_interval_is_that_of_students_t_at_the_level_of_its_look() -> None:
    values = np.random.default_rng(0).normal(0.3, 0.2, 10)
    answer = decide(runs(values), Question(form="superiority", margin=0.25, cap=20))
    # looks after 5, 10 and 20: a quarter of 5 % each of the first two
    low, high = stats.t.interval(1 - 0.05 / 4, 9, values.mean(), stats.sem(values))
    assert (answer.low, answer.high) == pytest.approx((low, high))
    assert answer.seeds == 10


def test_the_error_of_all_looks_sums_to_alpha() -> None:
    question = Question(form="superiority", margin=0.0, cap=100)
    assert question.looks == [5, 10, 20, 40, 80, 100]
    constant = np.tile([-1.0, 1.0, 0.0, 2.0, -2.0], 20)
    spent = 0.0
    for look in question.looks:
        answer = decide(runs(constant[:look]), question)
        spread = stats.sem(constant[:look])
        spent += 2 * stats.t.sf(answer.high / spread, look - 1)
    assert spent == pytest.approx(0.05)


def test_a_probability_has_the_interval_of_clopper_and_pearson() -> None:
    ones = [1, 1, 1, 0, 1]
    answer = decide(runs(ones), Question(form="probability", margin=0.5, cap=5))
    exact = stats.binomtest(4, 5).proportion_ci(0.95, method="exact")
    assert (answer.low, answer.high) == pytest.approx((exact.low, exact.high))
    sure = decide(runs(np.ones(20)), Question(form="probability", margin=0.5, cap=40))
    assert (sure.verdict, sure.seeds, sure.high) == ("held", 10, 1.0)


def test_patients_errors_do_not_shrink_with_runs() -> None:
    values = np.random.default_rng(1).normal(0.02, 0.001, 20)
    question = Question(form="superiority", margin=0.01, cap=20)
    assert decide(runs(values), question).verdict == "held"
    answer = decide(runs(values, patient_se=0.02), question)
    assert answer.verdict == "too few patients"
    assert answer.seeds == 5, "more runs would not have narrowed it"
    # that look spends the whole of 5 %, by nearly normal quantiles
    assert answer.high - answer.low == pytest.approx(2 * 1.96 * 0.02, rel=0.01)
    assert answer.detectable == pytest.approx(0.01 + (1.96 + 0.8416) * 0.02, rel=1e-3)


@pytest.mark.parametrize(
    ("form", "effect", "verdict", "why"),
    [
        ("superiority", 0.05, "held", "the effect lies in"),
        ("superiority", 0.0, "refuted", "no difference that matters"),
        ("superiority", -0.05, "refuted", "reversed"),
        ("non-inferiority", 0.0, "held", "the effect lies in"),
        ("non-inferiority", -0.05, "refuted", "reversed"),
        ("equivalence", 0.0, "held", "the effect lies in"),
        ("equivalence", 0.05, "refuted", "the effect lies in"),
        ("bound", 0.0, "held", "the effect lies in"),
        ("bound", 0.05, "refuted", "the effect lies in"),
    ],
)
def test_each_form_is_held_and_refuted(form: str, effect: float, verdict: str, why: str) -> None:
    values = effect + np.array([-1, 1, 0, 0.5, -0.5]) * 1e-3
    answer = decide(runs(values), Question(form=form, margin=0.01))
    assert answer.verdict == verdict
    assert answer.why.startswith(why)


WOBBLE = np.array([-1, 1, 0, 0.5, -0.5]) * 1e-3


@pytest.mark.parametrize(
    ("quantifier", "effects", "verdict"),
    [
        ("every", (0.05, 0.04, 0.03), "held"),
        ("every", (0.05, 0.04, 0.0), "refuted"),
        ("some", (0.05, 0.0, 0.0), "held"),
        ("some", (0.0, 0.0, -0.05), "refuted"),
        ("average", (0.05, 0.04, 0.0), "depends"),
        ("average", (0.05, 0.04, 0.0101), "held"),
        ("average", (0.0, -0.01, 0.0), "refuted"),
    ],
)
def test_a_quantifier_says_in_which_settings(
    quantifier: str, effects: tuple[float, ...], verdict: str
) -> None:
    values = np.array(effects)[:, None] + WOBBLE
    answer = decide(runs(values), Question(form="superiority", margin=0.01, quantifier=quantifier))
    assert answer.verdict == verdict
    if verdict == "refuted" and quantifier == "every":
        assert (
            answer.why == "no difference that matters, in setting 2; held in setting 0, setting 1"
        )
    if verdict == "depends":
        assert answer.why == "held in setting 0, setting 1; refuted in setting 2"


def test_an_average_is_taken_seed_by_seed_and_says_how_settings_spread() -> None:
    rng = np.random.default_rng(2)
    shared = rng.normal(0, 1, 5)  # a lucky seed is lucky in every setting
    values = shared + rng.normal(0, 0.01, (4, 5)) + np.arange(4)[:, None]
    answer = decide(runs(values), Question(form="superiority", margin=9, quantifier="average"))
    assert answer.effect == pytest.approx(values.mean())
    low, high = stats.t.interval(1 - 0.05 / 8, 4, values.mean(), stats.sem(values.mean(axis=0)))
    assert (answer.low, answer.high) == pytest.approx((low, high))
    means = values.mean(axis=1)
    assert answer.spread == pytest.approx(means.std(ddof=1))
    half = stats.t.isf(0.025, 3) * means.std(ddof=1) * np.sqrt(5 / 4)
    assert answer.new_setting == pytest.approx((means.mean() - half, means.mean() + half))


def test_what_is_open_says_what_would_change_it() -> None:
    question = Question(form="superiority", margin=0.0, cap=10, precision=0.1)
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 1, 10)
    wide = (noise - noise.mean()) / noise.std(ddof=1)
    first = decide(runs(wide[:3] + 0.5), question)
    assert (first.verdict, first.seeds_needed) == ("too few runs", 5)
    assert first.why == "3 of the 5 seeds of the first look. Run 2 more"
    second = decide(runs(wide[:6] + 0.5), question)
    assert second.why == "after 5 of at most 10 seeds the interval holds 0. Run 5 more"
    last = decide(runs(wide + 0.5), question)
    assert last.verdict == "too few runs"
    # half a standard deviation away, at 80 % power and one-sided 1.25 %
    needed = ((stats.norm.isf(0.0125) + stats.norm.ppf(0.8)) / 0.5) ** 2
    assert last.seeds_needed == int(np.ceil(needed))
    assert (
        last.why
        == f"after all 10 seeds the interval holds 0: some {last.seeds_needed} would decide"
    )
    narrow = decide(runs(wide * 0.05 + 0.001), question)
    assert narrow.verdict == "at the margin"


def test_runs_beyond_the_look_that_decides_do_not_count() -> None:
    values = np.concatenate([0.05 + WOBBLE, np.full(35, -1.0)])
    answer = decide(runs(values), Question(form="superiority", margin=0.01))
    assert (answer.verdict, answer.seeds) == ("held", 5)


def test_order_of_rows_does_not_matter() -> None:
    table = runs(np.random.default_rng(4).normal(0.0, 1, (3, 12)))
    question = Question(form="equivalence", margin=0.5, quantifier="average")
    one, other = (decide(t, question) for t in (table, table.sample(frac=1, random_state=0)))
    assert (one.verdict, one.effect, one.low) == (other.verdict, other.effect, other.low)
    pd.testing.assert_frame_equal(one.settings, other.settings)


def test_holm_hands_the_share_of_a_decided_question_on() -> None:
    values = np.random.default_rng(5).normal(0, 1, 5)
    values = (values - values.mean()) / values.std(ddof=1)

    def at(p: float) -> pd.DataFrame:
        """Five runs whose two-sided p is this."""
        return runs(values + stats.t.isf(p / 2, 4) / np.sqrt(5))

    question = Question(form="superiority", margin=0.0, cap=5)
    asked = {name: (at(p), question) for name, p in {"a": 0.01, "b": 0.02, "c": 0.06}.items()}
    verdicts = {name: answer.verdict for name, answer in decide_together(asked).items()}
    assert verdicts == {"a": "held", "b": "held", "c": "too few runs"}
    late = {name: (at(p), question) for name, p in {"a": 0.02, "b": 0.02, "c": 0.04}.items()}
    assert {a.verdict for a in decide_together(late).values()} == {"too few runs"}, (
        "Holm holds none"
    )


WRONG = {
    "form='better'": "'better' is not a form of a question (superiority",
    "quantifier='all'": "'all' is not a quantifier (every, average, some)",
    "margin=-0.1": "margin is -0.1. A question of superiority takes 0 or more",
    "margin=float('nan')": "margin is nan. Pass the smallest difference that matters",
    "margin='0.1'": "margin is '0.1'. Pass the smallest difference",
    "form='probability', margin=1": "margin is 1. A question of probability takes a probability",
    "form='equivalence', margin=0": "margin is 0, and nothing is nearer than that",
    "cap=1": "cap is 1. Pass a whole number of seeds from 2 up",
    "cap=True": "cap is True. Pass a whole number",
    "alpha=5": "alpha is 5. Pass a number between 0 and 1",
    "precision=0": "precision is 0. Pass a half-width above 0",
}
PROGRAM = """
import json, sys
from dfdlib.evaluation import Question, decide
def said(call):
    try:
        eval(call)
    except (TypeError, ValueError) as error:
        return str(error)
calls = [f"Question(**{{'form': 'superiority', 'margin': 0.01}} | dict({w}))" for w in WRONG]
calls += ["decide([0.1], Question(form='bound', margin=1))", "decide([0.1], 'superiority')"]
print(json.dumps([said(call) for call in calls]))
"""


def test_questions_are_checked() -> None:
    """In a process of its own: under pytest, beartype would refuse them first."""
    code = f"WRONG = {list(WRONG)!r}" + PROGRAM
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *answers, no_frame, neither = json.loads(run.stdout)
    for (wrong, start), answer in zip(WRONG.items(), answers, strict=True):
        assert str(answer).startswith(start), wrong
    assert no_frame.startswith("decide takes a DataFrame with one row per setting and seed as runs")
    assert neither.startswith("decide takes a DataFrame")


def test_runs_are_checked() -> None:
    question = Question(form="superiority", margin=0.01)
    table = runs(np.ones((2, 5)))
    with pytest.raises(ValueError, match=r"runs has no column 'patient_se'. It needs setting"):
        decide(table.drop(columns="patient_se"), question)
    with pytest.raises(ValueError, match=r"runs has no row. Pass one per setting"):
        decide(table.iloc[:0], question)
    with pytest.raises(ValueError, match=r"'setting 1' lacks seed 1004 of the others. Run it"):
        decide(table.iloc[:-1], question)
    with pytest.raises(ValueError, match=r"'setting 0' has seed 1000 twice. Keep one"):
        decide(pd.concat([table, table.iloc[:1]]), question)
    with pytest.raises(ValueError, match=r"seed 1000: patient_se is nan. Pass 0 where the truth"):
        decide(table.assign(patient_se=np.nan), question)
    with pytest.raises(ValueError, match=r"seed 1000: value is inf. Run it again"):
        decide(table.assign(value=np.inf), question)
    with pytest.raises(ValueError, match="a patient_se is below 0"):
        decide(table.assign(patient_se=-1.0), question)
    with pytest.raises(ValueError, match=r"value is 0.5, and a question of probability"):
        decide(table.assign(value=0.5), Question(form="probability", margin=0.5))


def words(draw: Draw, question: Question, *, patient_se: float = 0.0, times: int = 400) -> Counter:
    """How often each verdict comes out."""
    rng = np.random.default_rng(7)
    answers: list[Decision] = [decide(runs(draw(rng), patient_se), question) for _ in range(times)]
    return Counter(answer.verdict for answer in answers)


def at_most(share: float, times: int) -> int:
    """The largest count that a true share of this much gives in 999 of 1,000 simulations."""
    return int(stats.binom.ppf(0.999, times, share))


SUPERIORITY = Question(form="superiority", margin=0.01)


@pytest.mark.parametrize(
    ("question", "draw", "wrong", "times"),
    [
        pytest.param(SUPERIORITY, lambda r: r.normal(0.01, 0.03, 40), "held", 400, id="margin"),
        pytest.param(SUPERIORITY, lambda r: r.normal(0.0, 0.03, 40), "held", 400, id="zero"),
        pytest.param(
            SUPERIORITY, lambda r: r.normal(0.0101, 0.03, 40), "refuted", 400, id="just above"
        ),
        pytest.param(
            SUPERIORITY,
            lambda r: r.normal(0.0101, 0.03, (40, 40)),
            "refuted",
            100,
            id="one of 40 settings, each just above",
        ),
        pytest.param(
            Question(form="superiority", margin=0.01, quantifier="some"),
            lambda r: r.normal(0.01, 0.03, (40, 40)),
            "held",
            100,
            id="some of 40 settings, each at the margin",
        ),
        pytest.param(
            Question(form="superiority", margin=0.01, quantifier="average"),
            lambda r: r.normal(0.01, [[0.1], [0.001]], (2, 40)),
            "held",
            400,
            id="unequal spreads",
        ),
        pytest.param(
            Question(form="superiority", margin=0.0),
            lambda r: r.choice([-1.0, 1.0], 40) + r.normal(0, 0.02, 40),
            "held",
            400,
            id="two modes",
        ),
        pytest.param(
            Question(form="probability", margin=0.8),
            lambda r: (r.random(40) < 0.8).astype(float),
            "held",
            400,
            id="probability",
        ),
        pytest.param(
            Question(form="equivalence", margin=0.01),
            lambda r: r.normal(0.01, 0.01, 40),
            "held",
            400,
            id="equivalence",
        ),
    ],
)
def test_wrong_words_stay_within_the_budget(
    question: Question, draw: Draw, wrong: str, times: int
) -> None:
    assert words(draw, question, times=times)[wrong] <= at_most(question.alpha, times)


def test_patients_that_are_drawn_once_do_not_deceive() -> None:
    """The error that all runs share: one draw per simulation, not per run."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        return 0.01 + rng.normal(0, 0.02) + rng.normal(0, 0.01, 40)

    assert words(draw, SUPERIORITY, patient_se=0.02)["held"] <= at_most(0.05, 400)
    assert words(draw, SUPERIORITY)["held"] > 100, "without the patients' error half are deceived"


def test_power() -> None:
    found = words(lambda r: r.normal(0.04, 0.03, 40), SUPERIORITY, times=200)
    assert found["held"] >= 190
    found = words(lambda r: r.normal(0.0, 0.003, 40), SUPERIORITY, times=200)
    assert found["refuted"] >= 190
