"""Made-up visits in the schema of TADPOLE_D1_D2.csv: three classes, three imaging modalities."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dfdlib.book.made_up.draw import Columns, blocks, pick, words

MRI, PET, DTI = (
    "_UCSFFSL_02_01_16_UCSFFSL51ALL_08_01_16",
    "_UCBERKELEYAV45_10_17_16",
    "_DTIROI_04_30_14",
)
MONTHS = (0, 6, 12, 24, 36)
DX = ("NL", "MCI", "Dementia")
# from class, to class: what DXCHANGE says
CHANGES = np.array([[1, 4, 6], [7, 2, 5], [9, 8, 3]])

# FreeSurfer's regions by number: volumes only, an area only, and all four measures
_ALL = (
    *(13, 14, 15, 23, 24, 25, 26, 31, 32, 34, 35, 36, 38, 39, 40, *range(43, 53), *range(54, 61)),
    *(62, 64, 72, 73, 74, 82, 83, 84, 85, 90, 91, 93, 94, 95, 97, 98, 99, *range(102, 112)),
    *(*range(113, 120), 121, 123, 129, 130),
)
_VOLUMES = (
    *(*range(1, 10), 11, 12, *range(16, 22), 29, 30, 37, 42, 53, 61, 65, 66, 68, 69, 70, 71),
    *(*range(75, 81), 88, 89, 96, 101, 112, 120, 124, 125, 127, 128),
)
REGIONS = sorted(
    [f"ST{i}{kind}" for i in _ALL for kind in ("CV", "SA", "TA", "TS")]
    + [f"ST{i}SV" for i in _VOLUMES]
    + ["ST10CV", "ST27SA", "ST86SA"]
)
# these are missing here and there even where there is an MRI
HOLES = {f"ST{i}{kind}" for i in (64, 123) for kind in ("CV", "SA", "TA", "TS")} | {
    f"ST{i}SV" for i in (3, 5, 8, 19, 20, 68, 76, 78, 79, 127)
}

_CORTEX = (
    *("BANKSSTS", "CAUDALANTERIORCINGULATE", "CAUDALMIDDLEFRONTAL", "CUNEUS", "ENTORHINAL"),
    *("FRONTALPOLE", "FUSIFORM", "INFERIORPARIETAL", "INFERIORTEMPORAL", "INSULA"),
    *("ISTHMUSCINGULATE", "LATERALOCCIPITAL", "LATERALORBITOFRONTAL", "LINGUAL"),
    *("MEDIALORBITOFRONTAL", "MIDDLETEMPORAL", "PARACENTRAL", "PARAHIPPOCAMPAL"),
    *("PARSOPERCULARIS", "PARSORBITALIS", "PARSTRIANGULARIS", "PERICALCARINE", "POSTCENTRAL"),
    *("POSTERIORCINGULATE", "PRECENTRAL", "PRECUNEUS", "ROSTRALANTERIORCINGULATE"),
    *("ROSTRALMIDDLEFRONTAL", "SUPERIORFRONTAL", "SUPERIORPARIETAL", "SUPERIORTEMPORAL"),
    *("SUPRAMARGINAL", "TEMPORALPOLE", "TRANSVERSETEMPORAL", "UNKNOWN"),
)
_INNER = (
    *("ACCUMBENS_AREA", "AMYGDALA", "CAUDATE", "CEREBELLUM_CORTEX", "CEREBELLUM_WHITE_MATTER"),
    *("CEREBRAL_WHITE_MATTER", "CHOROID_PLEXUS", "HIPPOCAMPUS", "INF_LAT_VENT"),
    *("LATERAL_VENTRICLE", "PALLIDUM", "PUTAMEN", "THALAMUS_PROPER", "VENTRALDC", "VESSEL"),
)
_MIDDLE = (
    *("BRAINSTEM", "VENTRICLE_3RD", "VENTRICLE_4TH", "VENTRICLE_5TH", "CC_ANTERIOR"),
    *("CC_CENTRAL", "CC_MID_ANTERIOR", "CC_MID_POSTERIOR", "CC_POSTERIOR", "CSF"),
)
_LAST = ("NON_WM_HYPOINTENSITIES", "OPTIC_CHIASM", "WM_HYPOINTENSITIES")
_SUMMARIES = (
    *("CEREBELLUMGREYMATTER", "WHOLECEREBELLUM", "ERODED_SUBCORTICALWM", "FRONTAL", "CINGULATE"),
    *("PARIETAL", "TEMPORAL", "SUMMARYSUVR_WHOLECEREBNORM"),
    *("SUMMARYSUVR_WHOLECEREBNORM_1.11CUTOFF", "SUMMARYSUVR_COMPOSITE_REFNORM"),
    "SUMMARYSUVR_COMPOSITE_REFNORM_0.79CUTOFF",
)
_PLACES = (
    *_MIDDLE,
    *(f"CTX_{side}_{name}" for side in ("LH", "RH") for name in _CORTEX),
    *(f"{side}_{name}" for side in ("LEFT", "RIGHT") for name in _INNER),
    *_LAST,
)
UPTAKES = (*_SUMMARIES, *(name for place in _PLACES for name in (place, f"{place}_SIZE")))
_TRACTS = (
    *("CST", "ICP", "ML", "SCP", "CP", "ALIC", "PLIC", "PTR", "ACR", "SCR", "PCR", "CGC", "CGH"),
    *("FX_ST", "SLF", "SFO", "IFO", "SS", "EC", "UNC", "FX", "GCC", "BCC", "SCC", "RLIC", "TAP"),
)
TRACTS = tuple(
    f"{measure}_{name}"
    for measure in ("FA", "MD", "RD", "AD")
    for name in (
        *(f"{tract}_{side}" for tract in _TRACTS for side in "LR"),
        *("SUMGCC", "SUMBCC", "SUMSCC", "SUMCC", "SUMFX"),
    )
)


def visits(n: int, seed: int) -> Iterator[Columns]:
    """Draw the visits of n people, block by block."""
    for first, size, rng in blocks(n, seed):
        yield _visits(first, size, rng)


def _visits(first: int, size: int, rng: np.random.Generator) -> Columns:
    """Draw the visits of `size` people, the first of whom has number `first`.

    A person's disease moves on slowly, and with it every image a little. MRI is done at most
    visits, amyloid PET and DTI at few, more often in those who joined late. A cell without a value
    holds a blank, as it does in TADPOLE.
    """
    disease = rng.normal(0, 1, size) + 0.4
    speed = rng.gamma(1.5, 0.12, size)
    count = rng.integers(1, len(MONTHS) + 1, size)
    who = np.repeat(np.arange(size), count)
    rank = np.arange(len(who)) - np.repeat(np.cumsum(count) - count, count)
    month = np.array(MONTHS)[rank]
    now = disease[who] + speed[who] * month / 12
    stage = np.digitize(now + 0.25 * rng.normal(size=len(who)), (0.0, 1.3))
    before = np.where(rank == 0, stage, np.append(0, stage[:-1]))
    late = (rng.random(size) < 0.5)[who]
    k = len(who)
    has = {
        MRI: rng.random(k) < 0.75,
        PET: rng.random(k) < np.where(late, 0.45, 0.02),
        DTI: rng.random(k) < np.where(late, 0.15, 0.0),
    }
    start = np.datetime64("2005-09-01") + rng.integers(0, 3600, size)
    date = (start[who] + (month * 30.4375).astype(int)).astype("datetime64[D]")
    unknown = rng.random(k) < 0.25  # no diagnosis at this visit
    origins = {"White": 92, "Black": 4, "Asian": 3, "More than one": 1}
    person = {
        "PTGENDER": pick(rng, {"Male": 55, "Female": 45}, size).take(who),
        "PTEDUCAT": rng.integers(8, 21, size)[who],
        "PTETHCAT": pick(rng, {"Not Hisp/Latino": 96, "Hisp/Latino": 3, "Unknown": 1}, size).take(
            who
        ),
        "PTRACCAT": pick(rng, origins, size).take(who),
        "PTMARRY": pick(rng, {"Married": 7, "Widowed": 2, "Divorced": 1}, size).take(who),
    }
    number = first + np.arange(size)[who] + 2
    memory = np.clip(29 - 2.2 * now + rng.normal(0, 1.5, k), 4, 30).astype(int)
    return {
        "RID": number,
        "PTID": [f"{r % 141 + 1:03d}_S_{r:04d}" for r in number],
        "VISCODE": ["bl" if m == 0 else f"m{m:02d}" for m in month],
        "SITE": number % 59 + 1,
        "D1": np.ones(k, int),
        "D2": np.repeat(count >= 3, count).astype(int),
        "COLPROT": words(np.where(late, 1, 0), ("ADNI1", "ADNI2")),
        "ORIGPROT": words(np.where(late, 1, 0), ("ADNI1", "ADNI2")),
        "EXAMDATE": pa.array(date),
        "DX_bl": [("CN", "LMCI", "AD")[s] for s in stage[np.flatnonzero(rank == 0)][who]],
        "DXCHANGE": pa.array(CHANGES[before, stage], mask=unknown),
        "AGE": np.clip(rng.normal(73.5, 7, size), 55, 91).round(1)[who],
        **person,
        "APOE4": pa.array(rng.binomial(2, 0.28, size)[who], mask=(rng.random(size) < 0.01)[who]),
        "MMSE": pa.array(memory, mask=unknown),
        "ADAS13": pa.array((16 + 7 * now + rng.normal(0, 4, k)).clip(0, 85).round(), mask=unknown),
        "DX": words(np.where(unknown, -1, stage), DX),
        "Month": month,
        **_images(REGIONS, MRI, has, now, rng, holes=HOLES, always=("EXAMDATE", "STATUS")),
        **_images(UPTAKES, PET, has, now, rng, holes=_PET_HOLES, always=("EXAMDATE",)),
        "update_stamp" + PET: _present(pick(rng, {"2016-10-17 10:00:00.0": 1}, k), has[PET]),
        **_images(TRACTS, DTI, has, now, rng, holes=set(), always=("EXAMDATE", "VERSION")),
        "ABETA_UPENNBIOMK9_04_19_17": _present(
            pick(rng, {"<200": 1, "812.4": 4, ">1700": 2}, k), rng.random(k) < 0.2
        ),
    }


_PET_HOLES = {
    *("VENTRICLE_5TH", "VENTRICLE_5TH_SIZE", "CTX_LH_UNKNOWN", "CTX_RH_UNKNOWN"),
    *("CTX_LH_UNKNOWN_SIZE", "CTX_RH_UNKNOWN_SIZE", "LEFT_VESSEL", "LEFT_VESSEL_SIZE"),
    *("RIGHT_VESSEL", "RIGHT_VESSEL_SIZE"),
}


def _images(
    names: list[str] | tuple[str, ...],
    suffix: str,
    has: dict[str, np.ndarray],
    disease: np.ndarray,
    rng: np.random.Generator,
    *,
    holes: set[str],
    always: tuple[str, ...],
) -> Columns:
    """Draw what one kind of image is summarised in: a tenth of it follows the disease."""
    there = has[suffix]
    columns: Columns = {}
    for name in always:
        columns[name + suffix] = _present(pick(rng, {"2010-03-01": 1}, len(there)), there)
    for position, name in enumerate(names):
        effect = (-0.45, 0.3)[position % 2] if position % 10 < 2 else 0.0
        middle, spread = 10.0 ** (position % 4), 0.1 * 10.0 ** (position % 4)
        value = middle + spread * (effect * disease + rng.standard_normal(len(there)))
        known = there & ~((rng.random(len(there)) < 0.1) & (name in holes))
        columns[name + suffix] = _present(pa.array(value.round(4)), known)
    return columns


def _present(values: pa.Array, there: np.ndarray) -> pa.Array:
    """Write values as text, a blank where there is none."""
    return pc.if_else(pa.array(there), values.cast(pa.string()), " ")
