"""Scores of a model on a cohort: explicit probabilities, intervals by patient, paired differences.

Values come from scikit-learn over the whole split. Intervals come from a bootstrap that draws
whole patients. What cannot be known (too few patients, one class) is said, never given as a number.
"""

from dfdlib.evaluation.bootstrap import METRICS, MIN_EVENTS, MIN_PATIENTS
from dfdlib.evaluation.compare import compare
from dfdlib.evaluation.decide import Decision, decide, decide_together
from dfdlib.evaluation.evaluate import Report, evaluate
from dfdlib.evaluation.leaks import audit_leaks
from dfdlib.evaluation.predict import out_of_fold, out_of_group, predict_proba
from dfdlib.evaluation.probe import probe
from dfdlib.evaluation.questions import Question
from dfdlib.evaluation.results import read_results, write_result
from dfdlib.evaluation.tabular import tabular

__all__ = [
    "METRICS",
    "MIN_EVENTS",
    "MIN_PATIENTS",
    "Decision",
    "Question",
    "Report",
    "audit_leaks",
    "compare",
    "decide",
    "decide_together",
    "evaluate",
    "out_of_fold",
    "out_of_group",
    "predict_proba",
    "probe",
    "read_results",
    "tabular",
    "write_result",
]
