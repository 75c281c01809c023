"""Each refusal of a Cohort: what was wrong, what was got, and what to type next."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from dfdlib.data import Cohort, Images, Ragged, check_disjoint, load

NAN, INF = np.nan, np.inf
A = np.arange(6.0).reshape(3, 2)
HOLE = np.array([[1.0, NAN], [2.0, 3.0], [4.0, 5.0]])
LABS = pd.DataFrame({"na": [140.0, NAN, 133.0], "k": [4.0, 4.1, 4.2]}, index=["a", "b", "c"])
IMAGES = np.zeros((3, 1, 2, 2))


def cohort(**given):
    return Cohort(**({"x": {"labs": A, "ecg": A}} | given))


REFUSED = {
    "no modality": ({"x": {}}, r"at least one modality, got an empty dict.*x=\{'labs': labs\}"),
    "no rows": ({"x": {"labs": A[:0]}}, "empty cohort: labs have no rows"),
    "no rows in a list": ({"x": {"codes": []}}, "empty cohort: codes have no rows"),
    "no feature": ({"x": {"labs": A[:, :0]}}, r"shape \(3, 0\): no feature\. Leave it out"),
    "no column": ({"x": {"labs": pd.DataFrame(index=range(3))}}, "no feature"),
    "name with a point": ({"x": {"labs.a": A}}, "'labs.a' cannot name a modality"),
    "different n": (
        {"x": {"ecg": A, "labs": A[:2]}},
        "different numbers of rows: ecg 3, labs 2.*Pass one row per patient",
    ),
    "unknown modality in kinds": (
        {"kinds": {"lab": "vector"}},
        r"'lab' is not a modality, but stands in kinds \(labs, ecg\)\. Did you mean 'labs'\?",
    ),
    "unknown modality in x_observed": (
        {"x_observed": {"lbas": A > 0}},
        r"'lbas' is not a modality, but stands in x_observed .*Did you mean 'labs'\?",
    ),
    "unknown modality in observed": (
        {"observed": pd.DataFrame({"labs": [True] * 3, "egc": [True] * 3})},
        r"'egc' is not a modality, but is a column of observed.*Did you mean 'ecg'\?",
    ),
    "unknown kind": (
        {"kinds": {"labs": "vectr"}},
        "'vectr' is not a kind of modality, but is given for 'labs'.*Did you mean 'vector'",
    ),
    "kind and shape": (
        {"kinds": {"labs": "image"}},
        r"'labs' of kind 'image' has shape \(3, 2\)\. Pass \(n, channels, height, width\)",
    ),
    "three dimensions": ({"x": {"a": np.ones((3, 2, 2))}}, "kind of modality 'a' cannot be gue"),
    "list of numbers": ({"x": {"a": [1.0, 2.0]}}, "cannot be guessed from a list. Pass an array"),
    "array as codes": (
        {"kinds": {"labs": "codes"}},
        "'labs' of kind 'codes' is a ndarray. Pass a list of n lists of ids",
    ),
    "series of two": (
        {"x": {"a": [np.ones((2, 2))]}, "kinds": {"a": "series"}},
        r"'a' of kind 'series' has entries of shape \(2,\).*time, value, flag",
    ),
    "codes that are no ids": (
        {"x": {"a": [[1.5], [2.0]]}, "kinds": {"a": "codes"}},
        r"'a' of kind 'codes' has entries of shape \(\) and type torch.float32",
    ),
    "rows of different width": (
        {"x": {"a": [np.ones((1, 3)), np.ones((1, 4))]}, "kinds": {"a": "series"}},
        "modality 'a': rows differ in more than their length",
    ),
    "text": (
        {"x": {"ward": np.array(["a", "b"], dtype=object)}},
        r"'ward' holds string, not numbers\. If these .* pass pd\.to_numeric\(column\), which.*"
        r"pd\.Categorical\(column, categories=\[\.\.\.\]\)\.codes, NaN for -1",
    ),
    "text column": (
        {"x": {"labs": pd.DataFrame({"sodium": [1.0], "unit": ["mmol"]})}},
        r"modality 'labs' \(unit\) holds str.*, not numbers",
    ),
    "dates": (
        {"x": {"t": np.array(["2020-01-01"], dtype="M8[D]")}},
        "datetime64.*days since",
    ),
    "feature twice": (
        {"x": {"labs": pd.DataFrame(A, columns=["k", "k"])}},
        r"two features of one name: 'k'\. Rename one",
    ),
    "fraction as category": (
        {"x": {"ward": np.array([1.0, 2.5])}, "kinds": {"ward": "categorical"}},
        "'ward': row 1, column 'ward_0' holds a fraction, which is no category.*'vector'",
    ),
    "nan under observed": (
        {"x": {"labs": HOLE}, "observed": np.ones((3, 1), bool)},
        r"'labs': row 0, column 'labs_1' is marked as observed but holds nan.*"
        r"Pass x_observed=\{'labs': np.isfinite\(labs\)\}",
    ),
    "nan under x_observed": (
        {"x": {"labs": HOLE}, "x_observed": {"labs": np.ones((3, 2), bool)}},
        "'labs': row 0, column 'labs_1' is marked as observed but holds nan",
    ),
    "inf": (
        {"x": {"labs": np.array([[1.0], [INF]])}},
        r"row 1, column 'labs_0' holds inf.*np.where\(np.isinf\(labs\), np.nan, labs\)",
    ),
    "inf under a mask": (
        {"x": {"labs": np.array([[1.0], [-INF]])}, "observed": np.ones((2, 1), bool)},
        "row 1, column 'labs_0' is marked as observed but holds -inf",
    ),
    "too large for float32": ({"x": {"labs": np.array([1e300])}}, "row 0, .*holds inf"),
    "half an image": (
        {"x": {"xray": np.where(np.arange(4).reshape(2, 2) == 3, NAN, IMAGES)}},
        "'xray': row 0, pixel 3 holds nan.*make the whole image NaN or unobserved",
    ),
    "nan in a series": (
        {"x": {"icu": [np.zeros((2, 3)), np.array([[0.0, NAN, 1.0]])]}},
        "'icu': row 1 holds an entry that is not finite.*Leave such entries out",
    ),
    "masks that disagree": (
        {
            "observed": np.array([[True, True], [False, True], [True, True]]),
            "x_observed": {"labs": np.ones((3, 2), bool)},
        },
        "observed and x_observed disagree on 'labs' in 1 rows, first in row 1. Leave out observed=",
    ),
    "mask of numbers": (
        {"observed": np.ones((3, 2), int)},
        r"observed must be bool, got int64\. Pass observed\.astype\(bool\)",
    ),
    "mask of wrong shape": (
        {"observed": np.ones((3, 1), bool)},
        r"observed has shape \(3, 1\), expected \(3, 2\)",
    ),
    "feature mask of numbers": (
        {"x_observed": {"labs": np.ones((3, 2))}},
        r"x_observed\['labs'\] must be bool, got float64",
    ),
    "feature mask of wrong shape": (
        {"x_observed": {"labs": np.ones((3, 3), bool)}},
        r"x_observed\['labs'\] has shape \(3, 3\), expected \(3, 2\)",
    ),
    "feature mask of an image": (
        {"x": {"xray": IMAGES}, "x_observed": {"xray": np.ones((3, 4), bool)}},
        r"'xray' is of kind 'image', which has no features\. Pass its column of observed=",
    ),
    "binary out of range": (
        {"y": [0, 1, 2], "task": "binary"},
        r"labels outside the range of a binary task: numbers above 1\. .*else 0 or 1",
    ),
    "negative class": (
        {"y": [-1, 0, 1]},
        "range of a multiclass task: negative ones.*pd.Categorical",
    ),
    "half a class": (
        {"y": [0, 0.5, 1]},
        "outside the range of a multiclass task: fractions.*length of stay.* predicts classes",
    ),
    "infinite label": ({"y": [0, INF, 2], "task": "multiclass"}, "multiclass task: infinite ones"),
    "multilabel out of range": (
        {"y": [[0, 2], [1, 0], [1, 1]]},
        "outside the range of a multilabel task: numbers above 1.*0 or 1 in each column",
    ),
    "classes that start at 1": (
        {"y": [1, 2, 1]},
        r"labels are 1 and 2, and two classes are 0 and 1\. Pass y - 1; .*task='multiclass'",
    ),
    "no label": ({"y": [NAN] * 3}, "no label is present. Pass y=None, or task='binary'"),
    "labels as text": (
        {"y": np.array(["ill", "well", "ill"])},
        r"y holds <U4, not numbers\. Pass \(y == 'died'\)\.astype\(float\)\.where\(y\.notna",
    ),
    "labels in one column": (
        {"y": pd.DataFrame({"died": [0, 1, 1]})},
        r"y has shape \(3, 1\): one column.*Pass y\.squeeze\(1\), or task='multilabel'",
    ),
    "code of a missing word": (
        {
            "x": {"ward": pd.Series(["a", None, "b"]).astype("category").cat.codes},
            "kinds": {"ward": "categorical"},
        },
        "'ward': row 1, column 'ward_0' holds a negative number, which.*from 0 and NaN",
    ),
    "labels of other rows": (
        {"x": {"labs": LABS}, "y": pd.Series([0, 1, 1], index=["b", "a", "c"])},
        r"y and x\['labs'\] have different indexes \(the same labels in another order\).*"
        r"Pass y\.loc\[x\['labs'\]\.index\], or \.to_numpy\(\)",
    ),
    "modalities of other rows": (
        {"x": {"labs": LABS, "ecg": LABS.iloc[::-1]}},
        r"x\['ecg'\] and x\['labs'\] have different indexes",
    ),
    "group of other rows": (
        {"x": {"labs": LABS}, "groups": {"site": pd.Series(["v", "w", "w"])}},
        r"groups\['site'\] and x\['labs'\] have different indexes",
    ),
    "covariates of other rows": (
        {"x": {"labs": LABS}, "covariates": pd.DataFrame({"age": [40, 50, 60]})},
        r"covariates and x\['labs'\] have different indexes",
    ),
    "feature mask of other rows": (
        {"x": {"labs": LABS}, "x_observed": {"labs": LABS.iloc[::-1].notna()}},
        r"x_observed\['labs'\] and x\['labs'\] have different indexes",
    ),
    "feature mask of other columns": (
        {"x": {"labs": LABS}, "x_observed": {"labs": LABS.notna().rename(columns={"k": "kk"})}},
        r"x_observed\['labs'\] has the columns na, kk, the features are na, k\. Pass one column",
    ),
    "mask by modality": (
        {"observed": {"labs": np.ones(3, bool)}},
        r"observed is a dict\. Pass rows × modalities, such as pd\.DataFrame\(observed\)",
    ),
    "groups as a column": (
        {"groups": pd.Series(["a", "b", "b"])},
        r"groups is a Series\. Pass a dict of columns: groups=\{'site': site\}",
    ),
    "groups as an array": ({"groups": np.zeros(3)}, "groups is a ndarray. Pass a dict"),
    "labels of wrong length": ({"y": [0, 1]}, r"y has shape \(2,\), the modalities have 3 rows"),
    "labels of wrong shape": (
        {"y": [[0], [1], [1]], "task": "binary"},
        r"y has shape \(3, 1\): one column.*Pass y\.squeeze\(1\)",
    ),
    "unknown task": ({"y": [0, 1, 1], "task": "binry"}, "'binry' is not a task .*mean 'binary'"),
    "task without labels": ({"task": "binary"}, "task='binary' is given without labels"),
    "groups of wrong length": (
        {"groups": {"site": ["a", "b"]}},
        r"group 'site' has shape \(2,\), expected \(3,\)",
    ),
    "group that is missing": (
        {"groups": {"site": ["a", None, "b"]}},
        "group 'site' is missing in row 1. Pass a level of its own, such as 'unknown'",
    ),
    "covariates of wrong length": (
        {"covariates": {"age": [40, 50]}},
        "covariates has 2 rows, the modalities have 3",
    ),
    "frame of wrong length": (
        {"covariates": pd.DataFrame(index=range(4))},
        "covariates has 4 rows, the modalities have 3",
    ),
    "a covariate that is a word": ({"covariates": {"sex": "fmf"}}, "covariates has 1 rows"),
    "a covariate that is a number": ({"covariates": {"age": 5}}, "covariates has 1 rows"),
    "covariates that are no table": ({"covariates": [1, 2, 3]}, "covariates is a list. Pass a Dat"),
    "complex numbers": (
        {"x": {"mri": np.array([1 + 2j, 3, 4])}},
        r"'mri' holds complex128, not numbers\. Pass two columns: \.real and \.imag",
    ),
    "complex covariate": (
        {"covariates": {"phase": [1j, 2j, 3j]}},
        r"covariates \(phase\) holds comp",
    ),
    "sparse matrix": (
        {"x": {"labs": sparse.csr_matrix(A)}},
        r"modality 'labs' is a sparse matrix|x\['labs'\] is a sparse matrix",
    ),
    "numbers as text": (
        {"x": {"labs": pd.DataFrame({"k": ["3.5", "4"]})}},
        r"'labs' \(k\) holds str.*, not numbers\. .*pd\.to_numeric\(column\), which stops at",
    ),
    "words as categories": (
        {"x": {"ward": pd.Series(["a", "b", "a"], dtype="category")}},
        r"'ward' holds string, not numbers.*of words the place in one fixed list",
    ),
    "categories beside numbers": (
        {"x": {"m": pd.DataFrame({"w": pd.Categorical([1, 2, 3]), "k": [1.0, 2, 3]})}},
        r"'m' holds categories \(w\) beside numbers\. Make the categories a modality of their own",
    ),
    "a code past 64 bits": (
        {"x": {"ward": np.array([1, 2**63 + 1, 3], dtype="u8")}, "kinds": {"ward": "categorical"}},
        r"row 1, column 'ward_0' holds a number of 2\*\*63 or more",
    ),
    "ids past 64 bits": (
        {"x": {"dx": [np.array([2**63 + 1], dtype="u8")] * 3}},
        r"modality 'dx': rows hold ids of 2\*\*63 or more",
    ),
    "dates in rows": (
        {"x": {"dx": [np.array(["2020-01-01"], dtype="M8[D]")] * 3}, "kinds": {"dx": "codes"}},
        "modality 'dx': rows hold datetime64.*hours since an event",
    ),
    "masked ids": (
        {"x": {"dx": [[1], np.ma.masked_equal([1, 2], 2), [3]]}},
        "modality 'dx': row 1 has masked entries. Leave them out of the row",
    ),
    "a number among lists": (
        {"x": {"dx": pd.Series([[1], 5, [3]])}},
        "modality 'dx': row 1 is a single value. Pass a list for each row",
    ),
    "masked 8 bits": (
        {"x": {"xray": np.ma.array(IMAGES.astype("u1"), mask=IMAGES == 0)}},
        r"'xray' has masked pixels of 8 bits.*xray\.filled\(0\), and observed=",
    ),
    "channels last": (
        {"x": {"xray": np.zeros((3, 8, 9, 3))}},
        r"8 channels of 9 × 3 pixels\? If the channels .* np\.moveaxis\(xray, -1, 1\); "
        r"if not, kinds=\{'xray': 'image'\}",
    ),
    "8-bit channels last": (
        {"x": {"xray": Images(np.zeros((3, 8, 9, 3), "u1"))}},
        "If the channels come last",
    ),
    "a mask with holes": (
        {"observed": np.ma.array(np.ones((3, 2), bool), mask=np.eye(3, 2))},
        r"observed is itself missing in 2 places.*observed\.filled\(False\)",
    ),
    "a nullable mask with holes": (
        {"observed": pd.DataFrame({"labs": [True, None, True], "ecg": True}, dtype="boolean")},
        r"observed is itself missing in 1 places.*observed\.fillna\(False\)",
    ),
    "a feature mask with holes": (
        {"x_observed": {"labs": np.ma.array(np.ones((3, 2), bool), mask=np.eye(3, 2))}},
        r"x_observed\['labs'\] is itself missing in 2 places",
    ),
    "a masked group": (
        {"groups": {"site": np.ma.array(["a", "b", "c"], mask=[0, 1, 0])}},
        "group 'site' is missing in row 1",
    ),
    "a site as number and word": (
        {"groups": {"site": [1, "1", "2"]}},
        "group 'site' holds numbers and words, and one of each reads the same, such as 1 and '1'",
    ),
    "patients that floats merge": (
        {"groups": {"patient": [2.0**53, 2.0**53 + 1, 1]}},
        "group 'patient' holds float64 numbers so large that neighbours cannot be told apart",
    ),
    "labels of -1 and 1": (
        {"y": [-1, 1, 1]},
        r"the labels are -1 and 1, and two classes are 0 and 1\. Pass \(y \+ 1\) / 2",
    ),
    "labels of 1 and 2, told": ({"y": [1, 2, 2], "task": "binary"}, "are 1 and 2.* Pass y - 1"),
    "a length of stay": (
        {"y": [1.5, 7.25, 3.0]},
        r"multiclass task: fractions\..*length of stay.*unsupported: dfdlib predicts classes\. Cut",
    ),
    "a length of stay in days": (
        {"y": [3, 17, 41]},
        r"the 3 different labels are not 0 to 2.*length of stay.*unsupported",
    ),
    "a time and an event": (
        {"y": [[12.5, 1], [3.0, 0], [8.0, 1]]},
        "multilabel task: fractions, numbers above 1.*a time and an event are unsupported",
    ),
    "a label that float32 rounds": ({"y": [0, 1 - 1e-12, 1]}, "multiclass task: fractions"),
    "a label that is an identifier": (
        {"y": [0, 10**8, 1], "task": "multiclass"},
        "multiclass task: numbers too large for a class",
    ),
    "dates as labels": ({"y": pd.to_datetime(["2020"] * 3)}, "y holds datetime64.*days since"),
    "kinds as a word": (
        {"kinds": "vector"},
        r"kinds is a str\. Pass a dict by modality: kinds=\{'la",
    ),
    "x_observed as an array": (
        {"x_observed": A > 0},
        "x_observed is a ndarray. Pass a dict by modal",
    ),
    "x as a table": (
        {"x": LABS},
        r"at least one modality, got a DataFrame\. Pass a dict of arrays",
    ),
    "a covariate of two columns": (
        {"covariates": {"pressure": np.ones((3, 2))}},
        r"covariates \(pressure\) has shape \(3, 2\)\. Pass one value per row",
    ),
    "truth of wrong length": ({"truth": {"p_do": [0.5]}}, "truth has 1 rows, the modalities have"),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_construction_refuses(given, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        cohort(**given)


def test_a_ragged_row_that_is_named_is_the_users_row():
    icu = [None, np.zeros((1, 3)), np.full((1, 3), NAN), np.full((1, 3), INF)]
    observed = np.array([[False], [True], [False], [True]])
    with pytest.raises(ValueError, match="row 3 holds an entry"):
        Cohort(x={"icu": icu}, observed=observed)


VISITS = {"patient": ["p", "p", "q"], "site": ["a", "b", "b"]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.select(modalities=["lab"]), "'lab' is not a modality.*Did you mean 'labs'"),
        (lambda c: c.select(modalities=[]), "empty cohort: no modality is selected"),
        (lambda c: c.select([False] * 3), "empty cohort: no row is selected"),
        (lambda c: c.select([True] * 2), r"mask of shape \(2,\)\. Pass one of \(3,\)"),
        (lambda c: c.select([0, 3]), "rows holds 3, but there are 3 rows. Pass 0 to 2"),
        (lambda c: c.select([-4]), "rows holds -4, but there are 3 rows"),
        (lambda c: c.select([-300, 2]), "rows holds -300, but there are 3 rows"),
        (lambda c: next(c.batches(0)), "batch size 0. Pass a whole number, 1 or more"),
        (lambda c: c.select([0.5]), "rows holds float64.*Pass a boolean mask or positions"),
        (lambda c: c.split((0.5, 0.4)), r"fractions \(0.5, 0.4\) sum to 0.9, expected positive"),
        (lambda c: c.split((1.5, -0.5)), "expected positive ones that sum to 1"),
        (lambda c: c.split((0.8, 0.1, 0.1)), r"would hold nobody: 3 rows cannot be cut by 'pat"),
        (lambda c: c.split(by="sight"), r"'sight' is not a group \(.*\)\. Did you mean 'site'"),
        (lambda c: c.split((0.5, 0.5), by="site"), "1 patients would stand in two parts when"),
        (lambda c: c.leave_out("site", "a"), "1 patients would stand in two parts when cut by 's"),
        (lambda c: c.leave_out("sites", "a"), "'sites' is not a group.*Did you mean 'site'"),
        (lambda c: c.leave_out("site", "c"), r"'c' is not a level of 'site' \(a, b\)\. Use one"),
        (lambda c: c.leave_out("site", 1), r"^1 is not a level of 'site' \(a, b\)"),
        (lambda c: c.leave_out("site", ["a", "b", "b"]), "takes one level of 'site', got a list"),
        (lambda c: c.leave_out("site", None), "takes one level of 'site', got a NoneType"),
        (
            lambda c: c.select(pd.Series([True] * 3, index=[2, 0, 1])),
            r"in another order.*sort_index",
        ),
        (lambda c: c.summary(by="sex"), r"'sex' is not a group \(patient, site\)"),
    ],
)
def test_parts_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call(cohort(groups=VISITS))


def test_leaving_out_everybody_is_refused():
    with pytest.raises(ValueError, match="part 0 would hold nobody"):
        cohort(groups={"site": ["a"] * 3}).leave_out("site", "a")


def test_check_disjoint_refuses_shared_ids_and_shared_rows():
    named, also_named = (cohort(groups={"patient": ids}) for ids in (["p", "q", "r"], [*"xyq"]))
    with pytest.raises(ValueError, match=r"cohorts 0 and 1 share 1 patients\. Cut"):
        check_disjoint(named, also_named)
    parent = cohort()
    with pytest.raises(ValueError, match=r"cohorts 1 and 2 share 1 patients\. Cut"):
        check_disjoint(parent.select([2]), parent.select([0, 1]), parent.select([0]))
    with pytest.raises(ValueError, match="share 3 patients"):
        check_disjoint(parent, parent.select(modalities=["labs"]))


def test_check_disjoint_does_not_compare_row_numbers_of_strangers():
    check_disjoint(cohort(), cohort(), cohort(groups={"patient": [0, 1, 2]}))
    check_disjoint(cohort(groups={"patient": [1, 2, 3]}), cohort(groups={"patient": [*"123"]}))


def test_a_row_with_nothing_observed_is_allowed_but_said():
    with pytest.warns(UserWarning, match=r"1 of 3 rows have nothing observed.*cohort\.select"):
        part = Cohort(x={"labs": np.array([1.0, NAN, 2.0])})
    assert part.pattern.tolist() == ["labs", "nothing", "labs"]


def test_choosing_modalities_says_which_rows_it_empties():
    two = Cohort(x={"labs": np.array([1.0, NAN]), "codes": Ragged.from_rows([[1], [2]])})
    with pytest.warns(UserWarning, match="1 of 2 rows have nothing observed"):
        two.select(modalities="labs")


@pytest.mark.parametrize(
    ("name", "hint"), [("hart", "Did you mean 'heart'"), ("zzz", "Use one of these")]
)
def test_an_unknown_data_set_is_refused(name, hint):
    with pytest.raises(ValueError, match=rf"'{name}' is not a data set \(.*heart.*\)\. {hint}"):
        load(name)


def test_settings_that_a_data_set_does_not_have_are_refused():
    with pytest.raises(ValueError, match=r"'heart' takes no settings, got 'site'\. Call load\('h"):
        load("heart", site="va")
    with pytest.raises(ValueError, match=r"'sed' is not a setting of synthetic cohorts.*'seed'"):
        load("synthetic", sed=1)


def test_a_level_of_mixed_types_is_refused_by_name():
    mixed = cohort(groups={"site": np.array([1, "a", "a"], dtype=object)})
    with pytest.raises(ValueError, match=r"'b' is not a level of 'site' \(1, a\)"):
        mixed.leave_out("site", "b")


STAMPS = np.array([1.7e9, 1.7e9 + 60])


@pytest.mark.parametrize(
    ("x", "where"),
    [
        ({"t": STAMPS}, "modality 't', column 't_0'"),
        ({"t": pd.DataFrame({"id": STAMPS.astype(int)})}, "modality 't', column 'id'"),
        ({"t": [np.c_[STAMPS, STAMPS * 0, STAMPS * 0]] * 2}, "rows, column '0'"),
        ({"t": [np.c_[STAMPS, STAMPS, STAMPS].astype(int)] * 2}, "modality 't', column 'time'"),
    ],
)
def test_values_that_float32_makes_equal_are_said(x, where):
    with pytest.warns(UserWarning, match=f"{where}: the values lie so far from 0 .*origin"):
        Cohort(x=x)


@pytest.mark.parametrize(
    "column", [np.full(50, 0.1), 0.1 + np.arange(50) * 1e-17, 2000 + np.arange(50) / 12, [NAN, 1e9]]
)
def test_values_that_float32_keeps_apart_are_not(column):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*float32.*")
        warnings.filterwarnings("ignore", ".*nothing observed.*")
        Cohort(x={"t": np.asarray(column)})


@pytest.mark.parametrize(
    ("levels", "asked", "message"),
    [
        (
            [1, 2, 2],
            "1",
            r"^'1' is not a level of 'site' \(1, 2\)\. .*int64 and not words: pass 1 with",
        ),
        (
            ["1", "2", "2"],
            1,
            r"^1 is not a level of 'site' \(1, 2\)\. The levels are words: pass '1'",
        ),
    ],
)
def test_a_level_of_another_type_is_not_called_a_misspelling(levels, asked, message):
    with pytest.raises(ValueError, match=message) as refused:
        cohort(groups={"site": levels}).leave_out("site", asked)
    assert "Did you mean" not in str(refused.value)


@pytest.mark.parametrize("group", ["patient", "visit", "hospital number"])
def test_levels_that_are_patients_are_never_listed(group):
    ids = [f"secret-{i}" for i in range(60)]
    many = Cohort(x={"labs": np.ones(60)}, groups={"patient": ids, group: ids})
    with pytest.raises(ValueError, match=f"not one of the 60 levels of '{group}'") as refused:
        many.leave_out(group, "secret-60")
    assert "secret" not in str(refused.value)
    with pytest.raises(ValueError, match="of its type: str") as refused:
        many.leave_out(group, 7)
    assert "secret" not in str(refused.value)


MARK = 777.25  # of one patient


@pytest.mark.parametrize(
    "given",
    [
        {"x": {"labs": np.array([1.0, MARK, 2.0])}, "kinds": {"labs": "categorical"}},
        {"x": {"labs": np.array([1.0, -777, 2.0])}, "kinds": {"labs": "categorical"}},
        {"x": {"labs": A}, "y": [0, MARK, 1]},
        {"x": {"labs": A}, "y": [0, 777, 1]},
        {"x": {"labs": A}, "y": [0, 777, 1], "task": "binary"},
        {"x": {"labs": A}, "y": [[0, 777], [0, 1], [1, 1]]},
        {"x": np.array([MARK] * 3)},
        {"x": {"labs": np.array(["777.25", "1", "2"])}},
        {"x": {"labs": A}, "groups": {"patient": [777, "777", 1]}},
        {"x": {"labs": A}, "covariates": [MARK] * 3},
        {"x": {"labs": LABS.set_axis([777, 1, 2])}, "y": pd.Series([0, 1, 1], index=[1, 777, 2])},
        {"x": {"labs": LABS.set_axis([777, 1, 2])}, "y": pd.Series([0, 1, 1], index=[1, 7, 2])},
    ],
)
def test_no_refusal_shows_a_patients_value(given):
    with pytest.raises(ValueError, match=r"\w") as refused:
        Cohort(**given)
    assert "777" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_no_warning_shows_a_patients_value():
    with pytest.warns(UserWarning, match="float32") as said:
        Cohort(x={"t": np.array([1.777e9, 1.777e9 + 60])})
    assert all("777" not in str(each.message) for each in said)


def test_who_stands_in_two_parts_is_counted_and_not_named():
    both = {"patient": ["secret-1", "secret-1", "secret-2"], "site": ["a", "b", "b"]}
    visits = cohort(groups=both)
    for call in (
        lambda: visits.leave_out("site", "a"),
        lambda: visits.split((0.5, 0.5), by="site"),
        lambda: check_disjoint(visits, cohort(groups=both)),
    ):
        with pytest.raises(ValueError, match=r"\d patients") as refused:
            call()
        assert "secret" not in str(refused.value)
