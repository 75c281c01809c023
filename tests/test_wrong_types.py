"""Something of another type at the edge of the library: who takes what, what came, what to type.

The calls are made in a process of their own: under pytest, beartype would refuse them first.
"""

import json
import re
import subprocess
import sys

import pytest

PROGRAM = """
import json, warnings
import numpy as np, pandas as pd, torch
from dfdlib import evaluation, models, plots, training
from dfdlib.data import Cohort
from dfdlib.evaluation import audit_leaks, compare, evaluate, out_of_fold, out_of_group
from dfdlib.evaluation import predict_proba, probe
from dfdlib.models import GRAPE, Classifier, MultimodalVAE, Linear
from dfdlib.training import fit, load_model, trainer
cohort = Cohort(x={"labs": np.ones((20, 2))}, y=[0, 1] * 10, groups={"site": ["a", "b"] * 10})
p = np.tile([0.1, 0.6], 10)
report, schema = evaluate(p, cohort, n_boot=0), cohort.schema
model, y = Classifier(backbone=GRAPE(d=4), schema=schema), cohort.y
vae = MultimodalVAE(schema=schema, prior="poe", d_latent=2)
more = {name: {"environment": "site"} for name in ("CORAL", "IRM", "VREx", "GroupDRO")}
def make(name, **given):
    return getattr(models, name)(**({"backbone": GRAPE(d=4), "schema": schema}
                                    | more.get(name, {}) | given))
def said(call):
    try:
        eval(call)
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]
print(json.dumps({call: said(call) for call in CALLS}))
"""

METHODS = ("Classifier", "DFD", "LfF", "GroupDRO", "CORAL", "IRM", "VREx")
SCHEMA = r"takes a Schema as schema= \(cohort\.schema\), got {}\. Write schema=cohort\.schema$"
BACKBONE = r"takes a torch module as backbone=, got {}\. Write backbone=GRAPE\(\)$"
ROUTE = r"^Deconfounder takes a name or a route as route=, got {}\. Write route='invariant', or"
REPORT = r"^compare takes a Report, or a list of one per seed, as {}, got {}\. Write compare\(eval"
COHORT = r"^{} is no Cohort, but: {}\. Pass data\.Cohort\(x="
PROBE = r"^probe takes an array as {}, with one row per patient, got {}\. Write probe\("
FOLDER = r"^load_model takes the folder that Run\.save wrote, got {}\. Write load_model\('folder'\)"
MAKE = r"^trainer takes a function that makes a model for a schema, got {}\. Write trainer\(lambda"
REFUSED = {
    **{f"make({name!r}, schema=cohort)": f"^{name} {SCHEMA.format('a Cohort')}"
       for name in METHODS},
    **{f"make({name!r}, backbone=GRAPE)": f"^{name} {BACKBONE.format('the class GRAPE')}"
       for name in METHODS},
    "make('DFD', schema=None)": SCHEMA.format("None"),
    "make('DFD', schema=type(schema))": SCHEMA.format("the class Schema"),
    "make('DFD', schema={'labs': 2})": SCHEMA.format("a dict"),
    "MultimodalVAE(schema=cohort)": f"^MultimodalVAE {SCHEMA.format('a Cohort')}",
    "make('LfF', backbone='GRAPE')": BACKBONE.format("a str"),
    "make('LfF', backbone=8)": BACKBONE.format("an int"),
    "make('LfF', backbone=models.M3Care)": r"got the class M3Care\. Write backbone=M3Care\(\)$",
    "make('DFD', head=Linear)": r"takes a torch module as head=, got the class Linear\. Write head",
    "models.Deconfounder(route=models.Invariant)": ROUTE.format("the class Invariant"),
    "models.Deconfounder(route=None)": ROUTE.format("None"),
    "make('DFD', head='linear')": r"^DFD takes .* as head=, got a str\. Write head=Linear\(\)$",
    "make('DFD', encoders=[3])": r"^encoders= takes a dict .*, got a list\. Write encoders=",
    "plots.line_plot({'x': [1]}, x='x', xlabel='x')": "^figures take a DataFrame, got a dict. Pass",
    "compare(1, 2)": REPORT.format("a", "an int"),
    "compare(report, 2)": REPORT.format("b", "an int"),
    "compare('a', 'b')": REPORT.format("a", "a str"),
    "compare(report, None)": REPORT.format("b", "None"),
    "compare([report], [p])": REPORT.format("b", "a ndarray"),
    "compare(report.frame, report)": REPORT.format("a", "a DataFrame"),
    "compare({'a': report}, report)": REPORT.format("a", "a dict"),
    "evaluate('m', cohort)": r"^str is neither a torch module nor an array\. .* load_model\(folder",
    "evaluate(Classifier, cohort)": r"^the class Classifier is neither .* fit\(model, train\)\.mod",
    "evaluate(None, cohort)": "^NoneType is neither a torch module nor an array",
    "evaluate(p, schema)": COHORT.format("cohort", "Schema"),
    "predict_proba(GRAPE, cohort)": r"^the class GRAPE is no torch module\. Make one and fit it",
    "predict_proba(cohort, model)": "^Cohort is no torch module",
    "predict_proba(model, p)": COHORT.format("cohort", "ndarray"),
    "fit(Classifier, cohort)": "^model is no method .*, but: the class Classifier. Pass for",
    "fit(cohort, cohort)": "^model is no method that can be trained, but: Cohort",
    "fit(model, p)": COHORT.format("train", "ndarray"),
    "audit_leaks(p)": COHORT.format("cohort", "ndarray"),
    "audit_leaks(cohort, p)": COHORT.format("cohort", "ndarray"),
    "out_of_fold(p, None)": COHORT.format("cohort", "ndarray"),
    "out_of_group(p, 'site', None)": COHORT.format("cohort", "ndarray"),
    "probe(cohort, p)": PROBE.format("h", "a Cohort"),
    "probe(model, p)": PROBE.format("h", "a Classifier"),
    "probe(None, p)": PROBE.format("h", "None"),
    "probe(p, 'site')": PROBE.format("y", "a str"),
    "probe(p[:, None], p, 3, p)": PROBE.format("h_test", "an int"),
    "load_model(None)": FOLDER.format("None"),
    "load_model(model)": FOLDER.format("a Classifier"),
    "vae.log_likelihood({})": "^log_likelihood takes a Cohort, got a dict. Write vae.log",
    "vae.log_likelihood(cohort, n_samples=2.5)": r"^n_samples takes a whole number, got a float\.",
    "vae.coherence(cohort, y, classifiers=[1])": "^coherence takes a mapping from .*, got a list.",
    "trainer(model)": MAKE.format("a Classifier"),
    "trainer('DFD')": MAKE.format("a str"),
}  # fmt: skip
#: What looks alike, and goes on being taken.
TAKEN = (
    "compare([report], report, n_boot=9)",
    "compare((report,), [report], n_boot=9)",
    "make('Classifier', encoders=torch.nn.ModuleDict({'labs': torch.nn.Linear(2, 4)}))",
    "probe(np.random.randn(20, 2).tolist(), [0, 1] * 10)",
    "probe(pd.DataFrame(np.random.randn(20, 2)), torch.tensor([0, 1] * 10))",
    "trainer(lambda schema: model)",
)


@pytest.fixture(scope="module")
def said():
    program = PROGRAM.replace("CALLS", repr([*REFUSED, *TAKEN]))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("call", REFUSED)
def test_another_type_is_refused_with_what_to_type(said, call):
    kind, message = said[call]
    assert kind == "TypeError", message
    assert re.search(REFUSED[call], message), message


@pytest.mark.parametrize("call", TAKEN)
def test_what_fits_is_taken(said, call):
    assert said[call] == ["nothing", ""]
