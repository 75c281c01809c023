"""Where the data sets under access control come from, and how their versions are told apart."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Args:
        title: as its owners call it.
        page: where access is asked for.
        stem: the name of a table's file before `.csv` or `.csv.gz`, with {} for the table.
        counts: rows of the tables by which a version is known, per version.
        versions: those of `counts` that the cohorts were written for.
        foreign: a column that a table must not have, and the data set that has it.
    """

    title: str
    page: str
    stem: str = "{}"
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    versions: tuple[str, ...] = ()
    foreign: dict[tuple[str, str], str] = field(default_factory=dict)


SOURCES: dict[str, Source] = {
    "eicu": Source(
        title="the eICU Collaborative Research Database 2.0",
        page="https://physionet.org/content/eicu-crd/2.0/",
        counts={
            "2.0": {"patient": 200_859, "apacheapsvar": 171_177},
            "demo 2.0.1": {"patient": 2_520},
        },
        versions=("2.0", "demo 2.0.1"),
    ),
    "mimic_iv": Source(
        title="MIMIC-IV 2.x with MIMIC-IV-Note",
        page="https://physionet.org/content/mimiciv/2.2/ and "
        "https://physionet.org/content/mimic-iv-note/2.2/",
        counts={
            "2.0": {"patients": 315_460, "admissions": 454_324},
            "2.2": {"patients": 299_712, "admissions": 431_231},
            "3.1": {"patients": 364_627, "admissions": 546_028},
            "demo 2.2": {"patients": 100, "admissions": 275},
        },
        versions=("2.0", "2.2", "demo 2.2"),
        foreign={
            ("patients", "row_id"): "MIMIC-III",
            ("admissions", "row_id"): "MIMIC-III",
            ("admissions", "ethnicity"): "MIMIC-IV 1.0 or older",
        },
    ),
    "adni": Source(
        title="TADPOLE D1/D2 of ADNI",
        page="https://ida.loni.usc.edu/ (project ADNI, Download, Study Data, Test Data)",
        stem="TADPOLE_D1_D2",
        counts={"D1/D2": {"visits": 12_741}},
        versions=("D1/D2",),
    ),
    "mimic_cxr": Source(
        title="MIMIC-CXR-JPG 2.x",
        page="https://physionet.org/content/mimic-cxr-jpg/2.1.0/",
        stem="mimic-cxr-2.0.0-{}",
    ),
}
