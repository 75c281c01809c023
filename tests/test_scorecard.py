"""What held: the rule, what is counted, and what the page says where nothing was run."""

import json

import pandas as pd
import pytest
import yaml

from dfdlib.book import book_root, scorecard, sheet
from dfdlib.book.chapter import load_claims

DFD, CAUSAL, MMVM = "arXiv 2601.21941", "arXiv 2509.05615", "arXiv 2411.10356, a table"
CLAIMS = [
    {"id": "dfd-gain", "source": DFD, "claim": "It helps <all>.", "reach": ["truth", "open"],
     "published": [{"what": "gain", "value": 1.17, "unit": "%"}]},
    {"id": "missingness-bias", "source": CAUSAL, "claim": "It biases.", "reach": ["truth"]},
    {"id": "mmvm-best", "source": MMVM, "claim": "It is best.", "reach": ["truth", "credentialed"],
     "published": [{"what": "frontal / lateral", "value": [73.3, 73.0], "unit": "%"}]},
]  # fmt: skip
BOX = ":::{admonition} Claims `dfd-gain` and `other`\n:class: claim\nText on `mmvm-best`.\n:::"


def result(claim="dfd-gain", verdict="held", effect=0.02, **fields):
    return {
        "schema": 1, "claim": claim, "reach": "truth", "dataset": "synthetic, mar",
        "method": "DFD, GRAPE", "parameters": {}, "estimand": "P(Y | X)", "margin": 0.01,
        "seeds": [0, 1, 2, 3, 4], "metric": "auroc", "runs": [], "effect": effect,
        "low": effect - 0.005, "high": effect + 0.005, "verdict": verdict, "selection": "last",
        "versions": {}, "device": "cpu", "commit": "a", "command": "make results",
    } | fields  # fmt: skip


def notebook(*cells, parameters="seed = 0"):
    made = [{"cell_type": "markdown", "metadata": {}, "source": text} for text in cells]
    made.append({"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": [parameters]})
    return json.dumps({"cells": made})


@pytest.fixture
def root(tmp_path):
    """A book with three claims, one chapter and no result."""
    (tmp_path / "results" / "benchmarks").mkdir(parents=True)
    (tmp_path / "chapters").mkdir()
    (tmp_path / "_toc.yml").write_text("format: jb-book\n")
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(CLAIMS))
    (tmp_path / "chapters" / "03-gain.ipynb").write_text(notebook("# Title", BOX))
    return tmp_path


@pytest.fixture
def store(root):
    def add(*results):
        for some in results:
            number = len(list((root / "results").glob("*.json")))
            (root / "results" / f"{number:02d}.json").write_text(json.dumps(some))

    return add


def row(root, claim="dfd-gain", reach="truth"):
    card = scorecard.card(root)
    return card[(card["claim"] == claim) & (card["reach"] == reach)].iloc[0]


# ------------------------------------------------------------------ the rule


H, N, U = "held", "did not hold", "undecided"


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ([H], H), ([H, H], H), ([N, N], N), ([U, U], U), ([H, U], U), ([N, U], U),
        ([H, N], "mixed"), ([H, N, U], "mixed"), ([], "not tested here"),
    ],
)  # fmt: skip
def test_the_rule_takes_all_or_nothing(verdicts, together):
    assert scorecard.summarise(verdicts) == together
    assert scorecard.summarise(verdicts[::-1]) == together
    assert together in scorecard.VERDICTS


def test_no_single_result_carries_a_claim(root, store):
    store(result(effect=0.5), *[result(verdict=U, effect=0.0, dataset=f"d{i}") for i in range(3)])
    found = row(root)
    assert (found["verdict"], found["held"], found["undecided"]) == (U, 1, 3)
    assert bool(found["any"])


# ------------------------------------------------------------------ what is counted


def test_a_row_counts_and_spans_its_primary_results(root, store):
    store(
        result(),
        result(verdict=N, effect=-0.03, method="DFD, MUSE"),
        result(effect=9.0, method="hospital-aware DFD, GRAPE"),  # a variant
        result(effect=8.0, seeds=[0, 1, 2]),  # a map
    )
    found = row(root)
    assert found[["held", "did not hold", "undecided", "primary", "others"]].tolist() == [
        1, 1, 0, 2, 2,
    ]  # fmt: skip
    assert found[["low", "high"]].tolist() == [-0.03, 0.02]
    assert found[["lowest", "highest"]].tolist() == pytest.approx([-0.035, 0.025])
    assert (found["verdict"], found["metric"]) == ("mixed", "auroc")


def test_data_sets_that_are_controls_are_not_counted(root, store):
    kinds = ["synthetic, mcar", "synthetic, mar, strength 0 to 2", "synthetic, mar"]
    store(*[result("missingness-bias", dataset=kind, method="naive, GRAPE") for kind in kinds])
    parts = scorecard.evidence(root)["part"].tolist()
    assert parts == ["", "", "the naive network loses to the oracle"]


def test_what_was_asked_tells_results_of_the_same_method_apart(root, store):
    claims = [
        *CLAIMS,
        {"id": "mmvm-label-efficiency", "source": MMVM, "claim": "", "reach": ["truth"]},
    ]
    (root / "claims.yaml").write_text(yaml.safe_dump(claims))
    ours = "auroc mean 10 of MMVM, minus auroc mean {} of supervised"
    store(
        *[
            result("mmvm-label-efficiency", method="MMVM against supervised", estimand=asked)
            for asked in (ours.format(10), ours.format(100))
        ]
    )
    parts = scorecard.evidence(root)["part"].tolist()
    assert parts == ["", "MMVM with 10 % of the labels against supervised with all"]


def test_a_half_that_was_not_tested_is_named(root, store):
    store(result("missingness-bias", method="naive, GRAPE"))
    found = row(root, "missingness-bias")
    assert found["missing"] == "not tested: stratified adjustment gains on it"
    store(result("missingness-bias", verdict=N, effect=0.0, method="stratified, GRAPE"))
    found = row(root, "missingness-bias")
    assert (found["missing"], found["verdict"]) == ("", "mixed")


def test_a_claim_without_an_entry_counts_every_result(root, store):
    store(result("mmvm-best", method="anything"), result("mmvm-best", method="any, other"))
    assert row(root, "mmvm-best")["primary"] == 2


def test_without_results_a_row_says_why(root, store):
    (root / "results" / "benchmarks" / "speed.json").write_text('{"speed": 2}')
    card = scorecard.card(root)
    assert card[["claim", "reach"]].to_numpy().tolist() == [
        ["dfd-gain", "truth"], ["dfd-gain", "open"], ["missingness-bias", "truth"],
        ["mmvm-best", "truth"], ["mmvm-best", "credentialed"],
    ]  # fmt: skip
    assert set(card["verdict"]) == {"not tested here"}
    assert card["missing"].tolist() == ["no result yet"] * 4 + ["needs credentialed data"]
    assert card["low"].isna().all()
    store(result(method="LfF, GRAPE"))
    assert row(root)["missing"] == "only variants and controls were run"


# ------------------------------------------------------------------ what stands beside it


def test_chapters_are_found_by_the_title_of_their_claim_box(root):
    found = scorecard.answers(root)
    assert found == {"dfd-gain": ["03-gain"], "missingness-bias": [], "mmvm-best": []}


def test_published_numbers_stand_beside_ours(root, store):
    store(result(effect=0.02), result(effect=-0.01, dataset="other"))
    found = scorecard.published(root)
    assert found["value"].tolist() == ["1.17", "73.3 / 73.0"]
    assert found["ours"].tolist() == ["truth: -1.0 to +2.0", "not tested here"]


def test_a_command_is_given_for_chapters_that_take_the_data(root):
    assert scorecard.reproduce(root).to_numpy().tolist() == [["mmvm-best", "mimic_cxr", "", ""]]
    box = BOX.replace("dfd-gain", "mmvm-best")
    chapter = notebook(box, parameters="seed = 0\ndataset = 'phantom'\nroot = None")
    (root / "chapters" / "18-vae.ipynb").write_text(chapter)
    (found,) = scorecard.reproduce(root)["command"]
    assert found == (
        "papermill chapters/18-vae.ipynb out.ipynb -p dataset mimic_cxr -p root FOLDER"
    )


def test_the_sheet_shows_each_primary_result_with_its_command(root, store):
    store(
        result(effect=0.0217, command="python a.py --data 'b'"),
        result(effect=9.0, verdict=U, method="hospital-aware DFD, GRAPE"),
    )
    shown = sheet("DFD", root=root)
    text = shown._repr_html_()
    assert text.count("<details") == text.count("</details>") == 2
    assert "It helps &lt;all&gt;." in text
    assert "<td>+0.022</td><td>+0.017 to +0.027</td>" in text
    assert "python a.py --data &#x27;b&#x27;" in text
    assert "not counted, 1 variants and controls: 1 undecided" in text
    assert "9.000" not in text
    assert 'href="03-gain.html"' in text
    assert repr(shown) == "dfd-gain, truth: held\ndfd-gain, open: not tested here"
    with pytest.raises(ValueError, match=r"'dfd' is no system. Pass one of: DFD, MMVM, causal"):
        sheet("dfd", root=root)


# ------------------------------------------------------------------ the book's own claims


@pytest.fixture(scope="module")
def stored():
    return scorecard.evidence()


@pytest.fixture(scope="module")
def card(stored):
    return scorecard.card(results=stored)


def test_every_claim_has_a_row_for_each_reach(card):
    wanted = [
        (claim["id"], reach) for claim in load_claims(book_root()) for reach in claim["reach"]
    ]
    assert list(zip(card["claim"], card["reach"], strict=True)) == wanted


def test_every_stored_result_of_a_claim_is_counted_once(card, stored):
    assert card["primary"].sum() + card["others"].sum() == len(stored)
    assert stored["file"].is_unique
    counted = stored[stored["part"] != ""]
    again = counted.groupby(["claim", "reach"])["verdict"].apply(list).map(scorecard.summarise)
    mine = card[card["primary"] > 0].set_index(["claim", "reach"])["verdict"]
    pd.testing.assert_series_equal(again.sort_index(), mine.sort_index(), check_names=False)


def test_primary_results_are_named_for_claims_that_exist():
    assert set(scorecard.PRIMARY) <= {claim["id"] for claim in load_claims(book_root())}
