"""MIMIC-CXR-JPG: pairs against a loop over studies, pixels against NumPy, conversion killed."""

import itertools
import json
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.model_selection import train_test_split

from dfdlib.book import made_up
from dfdlib.data import check_disjoint, mimic_cxr
from dfdlib.data.arrays import Images
from dfdlib.data.clinical import pictures

LABELS = [
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum"),
    *("Fracture", "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion"),
    *("Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices"),
]

# subject -> study -> views in the order of the metadata
STUDIES = {
    10000032: {50000001: ["LATERAL", "PA"], 50000002: ["PA", "AP", "LL", "LATERAL"]},
    10000045: {50000003: ["AP"], 50000004: ["LATERAL", "PA", "PA"]},
    10000099: {50000005: ["PA", "LATERAL"]},  # no row of labels
    11000001: {50000006: ["AP", "", "LL", "SWIMMERS"]},
    12000007: {50000007: ["PA", "LL"]},  # a file that is cut off
    13000003: {50000008: ["PA", "LATERAL"]},  # a file that is not there
    14000005: {50000009: ["AP", "LL"]},
    **{15000000 + k: {50000100 + k: ["PA", "LATERAL"]} for k in range(20)},
}
UNCERTAIN = {50000001: {"Edema": -1, "Fracture": 1, "Pneumonia": 0}}


def picture(seed, size=(40, 33)):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 7), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def root(tmp_path):
    """The folder as PhysioNet ships it."""
    rows, parts = [], []
    for subject, studies in STUDIES.items():
        for study, views in studies.items():
            for i, view in enumerate(views):
                image = f"{study}-{i}"
                rows.append((image, subject, study, "CHEST", view, 2544, 3056))
                parts.append((image, study, subject, "test" if subject % 2 else "train"))
                folder = tmp_path / "files" / f"p{str(subject)[:2]}" / f"p{subject}" / f"s{study}"
                folder.mkdir(parents=True, exist_ok=True)
                if study == 50000008 and view == "PA":
                    continue
                picture(len(rows)).save(folder / f"{image}.jpg", quality=95)
                if study == 50000007 and view == "PA":
                    whole = (folder / f"{image}.jpg").read_bytes()
                    (folder / f"{image}.jpg").write_bytes(whole[: len(whole) // 2])
    header = ["dicom_id", "subject_id", "study_id", "Procedure", "ViewPosition", "Rows", "Columns"]
    metadata = pd.DataFrame(rows + rows[:1], columns=header)  # a row that comes twice
    metadata.to_csv(tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz", index=False)
    split = pd.DataFrame(parts, columns=["dicom_id", "study_id", "subject_id", "split"])
    split.to_csv(tmp_path / "mimic-cxr-2.0.0-split.csv.gz", index=False)
    chexpert = []
    for subject, studies in STUDIES.items():
        for study in set(studies) - {50000005}:
            values = UNCERTAIN.get(study, {"No Finding": 1} if study % 2 else {"Edema": 1})
            chexpert.append({"subject_id": subject, "study_id": study} | values)
    columns = ["subject_id", "study_id", *LABELS]
    table = pd.DataFrame(chexpert).reindex(columns=columns)
    table.to_csv(tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz", index=False)
    return tmp_path


@pytest.fixture
def converted(root):
    mimic_cxr.convert(root, size=16)
    return root


def expected_pairs(dropped=(50000005, 50000007, 50000008)):
    """All pairs by a plain loop: subject, study, frontal and lateral name."""
    found = []
    for subject, studies in sorted(STUDIES.items()):
        for study, views in sorted(studies.items()):
            if study in dropped:
                continue
            images = [(view, f"{study}-{i}") for i, view in enumerate(views)]
            sides = [
                [image for view in order for v, image in images if v == view]
                for order in (("AP", "PA"), ("LL", "LATERAL"))
            ]
            found += [(subject, study, f, lateral) for f, lateral in itertools.product(*sides)]
    return found


def names_of(cohort, folder):
    """The dicom ids of a cohort's pairs."""
    index = pd.read_parquet(folder / "images.parquet").set_index("row")["dicom_id"]
    return [index.loc[cohort.x[side].rows.numpy()].tolist() for side in ("frontal", "lateral")]


# ---------------------------------------------------------------- pixels


def equalised(values):
    """Histogram equalisation, written out: the steps between levels hold equally many pixels."""
    count = np.bincount(values.ravel(), minlength=256)
    step = (count.sum() - count[count > 0][-1]) // 255
    below = np.concatenate([[0], np.cumsum(count)[:-1]])
    return np.clip((step // 2 + below) // step, 0, 255).astype(np.uint8)[values]


@pytest.mark.parametrize("size", [(40, 33), (33, 40), (37, 37)])
def test_an_image_is_cropped_in_the_middle_resized_and_equalised(size):
    image = picture(1, size)
    array = np.asarray(image)
    h, w = array.shape
    side = min(h, w)
    middle = array[(h - side) // 2 :, (w - side) // 2 :][:side, :side]
    np.testing.assert_array_equal(pictures.square(image, side), equalised(middle))
    smaller = np.asarray(Image.fromarray(middle).resize((20, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(pictures.square(image, 20), equalised(smaller))


def test_colour_becomes_grey():
    grey = picture(2)
    colour = Image.merge("RGB", [grey] * 3)
    np.testing.assert_array_equal(pictures.square(colour, 9), pictures.square(grey, 9))


def test_the_array_holds_the_converted_files(converted):
    folder = converted / "dfdlib-16"
    cohort = mimic_cxr.load(folder)
    batch = next(cohort.batches(len(cohort)))
    for side, names in zip(("frontal", "lateral"), names_of(cohort, folder), strict=True):
        for pixels, name, subject in zip(
            batch.x[side], names, cohort.groups["patient"], strict=True
        ):
            study = name.split("-")[0]
            file = converted / "files" / f"p{subject // 10**6}" / f"p{subject}" / f"s{study}"
            with Image.open(file / f"{name}.jpg") as image:
                expected = pictures.square(image, 16)
            assert torch.equal(pixels[0], torch.from_numpy(expected / 255).float())


# ---------------------------------------------------------------- pairs, labels, parts


@pytest.mark.parametrize("pairs", ["all", "one"])
def test_pairs_are_those_of_a_loop_over_studies(converted, pairs):
    cohort = mimic_cxr.load(converted, size=16, pairs=pairs)
    expected = expected_pairs()
    if pairs == "one":
        expected = list({study: row for row in reversed(expected) for study in [row[1]]}.values())
        expected = sorted(expected)
    found = zip(
        cohort.groups["patient"],
        cohort.groups["study"],
        *names_of(cohort, converted / "dfdlib-16"),
        strict=True,
    )
    assert list(found) == expected
    counts = pd.Series(cohort.groups["study"]).value_counts()
    assert counts[50000002] == (4 if pairs == "all" else 1)
    assert cohort.groups["frontal_view"][1] == "AP"
    assert set(cohort.groups["lateral_view"]) == {"LL", "LATERAL"}


def test_labels_follow_the_policy(converted):
    assert tuple(LABELS) == mimic_cxr.LABELS
    edema, fracture, pneumonia, lesion = (LABELS.index(name) for name in (
        "Edema", "Fracture", "Pneumonia", "Lung Lesion"
    ))  # fmt: skip
    for uncertain, value in (("zeros", 0.0), ("ones", 1.0), ("ignore", np.nan)):
        cohort = mimic_cxr.load(converted, size=16, uncertain=uncertain)
        assert (cohort.task, cohort.schema.n_outputs) == ("multilabel", 14)
        first = cohort.y[0].numpy()
        np.testing.assert_array_equal(first[[edema, fracture, pneumonia, lesion]], [value, 1, 0, 0])
        assert np.nansum(first) == 1 + (value == 1)


def test_the_published_split_is_over_all_labelled_subjects(converted):
    """Also over those without a pair, and the same for one pair per study."""
    subjects = sorted(set(STUDIES) - {10000099})
    train, rest = train_test_split(subjects, train_size=0.8, random_state=0, shuffle=True)
    test, validate = train_test_split(rest, test_size=0.5, random_state=0)
    for pairs in ("all", "one"):
        cohort = mimic_cxr.load(converted, size=16, pairs=pairs)
        parts = []
        for name, members in (("train", train), ("validate", validate), ("test", test)):
            part = cohort.select(cohort.groups["split"] == name)
            parts.append(part)
            paired = {subject for subject, *_ in expected_pairs()}
            assert set(part.groups["patient"].tolist()) == set(members) & paired
        check_disjoint(*parts)


def test_the_official_split_is_that_of_the_file(converted):
    cohort = mimic_cxr.load(converted, size=16, split="official")
    odd = cohort.groups["patient"] % 2 == 1
    assert (cohort.groups["split"] == np.where(odd, "test", "train")).all()


def test_pixels_stay_on_disk(converted):
    cohort = mimic_cxr.load(converted, size=16)
    for part in cohort.split((0.5, 0.5)):
        assert isinstance(part.x["frontal"], Images)
        assert isinstance(part.x["frontal"].pixels, np.memmap)
        assert np.shares_memory(part.x["frontal"].pixels, cohort.x["lateral"].pixels)


def test_the_flow_counts_each_rule(converted):
    flow = mimic_cxr.flow(converted, size=16)
    everything = [v for studies in STUDIES.values() for views in studies.values() for v in views]
    known = [v for v in everything if v in ("AP", "PA", "LL", "LATERAL")]
    expected = [len(everything), len(known), len(known) - 2, len(known) - 3, len(known) - 7]
    assert flow["images"].tolist() == expected
    assert flow["excluded"].tolist() == [0, *-np.diff(expected)]
    assert flow["patients"].tolist() == [27, 27, 26, 26, 24]


# ---------------------------------------------------------------- conversion


def test_same_pixels_are_counted_by_whether_patients_share_them(root):
    def place(subject, image):
        study = image.split("-")[0]
        folder = root / "files" / f"p{subject // 1_000_000}" / f"p{subject}" / f"s{study}"
        return folder / f"{image}.jpg"

    # of one patient one picture is there three times, another one two patients have
    for source, target in (
        ((10000032, "50000002-0"), (10000032, "50000002-1")),
        ((10000032, "50000002-0"), (10000032, "50000001-0")),
        ((15000003, "50000103-0"), (14000005, "50000009-0")),
    ):
        place(*target).write_bytes(place(*source).read_bytes())
    table = mimic_cxr.duplicates(mimic_cxr.convert(root, size=16)).set_index("same_pixels")
    assert table.loc["of one patient"].to_dict() == {"pictures": 1, "images": 3, "patients": 1}
    assert table.loc["of several patients"].to_dict() == {
        "pictures": 1,
        "images": 2,
        "patients": 2,
    }


def test_unreadable_files_are_dropped_and_logged(root, caplog):
    out = mimic_cxr.convert(root, size=16)
    bad = pd.read_csv(out / "unreadable.csv")
    assert bad["dicom_id"].tolist() == ["50000007-0", "50000008-0"]
    assert "truncated" in bad["why"][0]
    assert bad["why"][1] == "not there"
    assert bad["file"][1] == "files/p13/p13000003/s50000008/50000008-0.jpg"
    assert "2 of 57 images cannot be read and are left out: 1 truncated, 1 not there" in caplog.text
    assert "5000000" not in caplog.text  # no study, no patient, no path
    assert str(root) not in caplog.text
    assert {path.name for path in out.iterdir()} == {
        "conversion.json", "flow.json", "images.npy", "images.parquet", "unreadable.csv"
    }  # fmt: skip


@pytest.mark.parametrize("after", [0, 7, 40])
def test_a_kill_loses_only_what_was_in_work(root, converted, monkeypatch, after):
    """Stopped after so many images, then gone on: the same bytes, and little done twice."""
    monkeypatch.setattr(pictures, "PART", 4)
    read, calls = pictures.read_square, itertools.count()

    def killed(file, size):
        if next(calls) == after:
            raise KeyboardInterrupt
        return read(file, size)

    out = root / "again"
    monkeypatch.setattr(pictures, "read_square", killed)
    with pytest.raises(KeyboardInterrupt):
        mimic_cxr.convert(root, out, size=16)
    assert not (out / "images.npy").exists()
    with pytest.raises(FileNotFoundError, match="holds no converted images"):
        mimic_cxr.load(out, size=16)
    redone = []
    monkeypatch.setattr(
        pictures, "read_square", lambda file, size: redone.append(file) or read(file, size)
    )
    mimic_cxr.convert(root, out, size=16)
    assert len(redone) <= 57 - after + 4
    for name in ("images.npy", "images.parquet", "unreadable.csv"):
        assert (out / name).read_bytes() == (root / "dfdlib-16" / name).read_bytes()
    redone.clear()
    mimic_cxr.convert(root, out, size=16)
    assert redone == []


def test_several_may_convert_into_one_folder(root, converted, monkeypatch):
    monkeypatch.setattr(pictures, "PART", 2)
    errors = []

    def work():
        try:
            mimic_cxr.convert(root, root / "together", size=16, workers=2)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for name in ("images.npy", "images.parquet"):
        assert (root / "together" / name).read_bytes() == (root / "dfdlib-16" / name).read_bytes()
    assert not list((root / "together").glob("*part*"))


def edit(root, name, change):
    """Change a table in place."""
    path = root / f"mimic-cxr-2.0.0-{name}.csv.gz"
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def test_what_arrives_or_changes_is_taken_and_nothing_else_is_read(converted, monkeypatch):
    """Against a conversion of the final files into a new folder."""
    files = converted / "files"
    whole = files / "p12" / "p12000007" / "s50000007" / "50000007-0.jpg"
    picture(7).save(whole, quality=95)  # was cut off
    picture(8).save(files / "p13" / "p13000003" / "s50000008" / "50000008-0.jpg")  # was not there
    changed = files / "p10" / "p10000032" / "s50000001" / "50000001-1.jpg"
    picture(99).save(changed, quality=95)
    (files / "p14" / "p14000005" / "s50000009" / "50000009-0.jpg").unlink()  # to save room
    read, asked = pictures.read_square, []
    monkeypatch.setattr(
        pictures, "read_square", lambda file, size: asked.append(file.stem) or read(file, size)
    )
    before = np.load(converted / "dfdlib-16" / "images.npy")
    out = mimic_cxr.convert(converted, size=16)
    assert sorted(asked) == ["50000001-1", "50000007-0", "50000008-0"]
    cohort = mimic_cxr.load(converted, size=16)
    assert len(cohort) == len(expected_pairs(dropped=(50000005,)))
    names = names_of(cohort, out)
    picture(8).save(files / "p14" / "p14000005" / "s50000009" / "50000009-0.jpg", quality=95)
    fresh = mimic_cxr.load(mimic_cxr.convert(converted, converted / "fresh", size=16))
    for side, of_side in zip(("frontal", "lateral"), names, strict=True):
        pixels, expected = (c.x[side].pixels[c.x[side].rows.numpy()] for c in (cohort, fresh))
        for name, one, other in zip(of_side, pixels, expected, strict=True):
            if name == "50000009-0":
                assert (one == before).all(axis=(1, 2, 3)).any()  # as it was converted
            else:
                np.testing.assert_array_equal(one, other)
    assert pd.read_csv(out / "unreadable.csv").empty


def test_the_tables_are_read_anew_each_time(root):
    (root / "mimic-cxr-2.0.0-split.csv.gz").rename(root / "later.csv.gz")
    out = mimic_cxr.convert(root, size=16)
    array = (out / "images.npy").stat().st_mtime_ns
    (root / "later.csv.gz").rename(root / "mimic-cxr-2.0.0-split.csv.gz")
    edit(root, "chexpert", lambda table: table.assign(Fracture="1.0"))
    mimic_cxr.convert(root, size=16)
    cohort = mimic_cxr.load(root, size=16, split="official")
    assert set(cohort.groups["split"]) == {"train", "test"}
    assert (cohort.y[:, LABELS.index("Fracture")] == 1).all()
    assert (out / "images.npy").stat().st_mtime_ns == array
    edit(root, "chexpert", lambda table: table[table["study_id"] != "50000001"])
    mimic_cxr.convert(root, size=16)
    assert len(mimic_cxr.load(root, size=16)) == len(cohort) - 1


def test_a_conversion_of_the_first_version_is_brought_up_to_date(converted):
    """Its index had neither size nor time of the files, its card no plan."""
    out = converted / "dfdlib-16"
    pixels = (out / "images.npy").read_bytes()
    index = pd.read_parquet(out / "images.parquet").drop(columns=["bytes", "modified"])
    index.to_parquet(out / "images.parquet", index=False)
    (out / "conversion.json").write_text(json.dumps({"size": 16, "images": 57, "names": "abc"}))
    assert len(mimic_cxr.load(out)) == len(expected_pairs())
    mimic_cxr.convert(converted, size=16)
    assert (out / "images.npy").read_bytes() == pixels
    assert {"bytes", "modified"} < set(pd.read_parquet(out / "images.parquet"))


def test_a_kill_while_the_files_take_their_names_is_told_and_mended(converted, monkeypatch):
    """No index may meet the array of another conversion."""
    changed = converted / "files" / "p10" / "p10000032" / "s50000001" / "50000001-1.jpg"
    picture(99).save(changed, quality=95)

    def killed(self):
        raise KeyboardInterrupt

    out = converted / "dfdlib-16"
    with monkeypatch.context() as patched:
        patched.setattr(pictures.Conversion, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            mimic_cxr.convert(converted, size=16)
    with pytest.raises(FileNotFoundError, match=r"stopped while .* Call it again: dfdlib data"):
        mimic_cxr.load(converted, size=16)
    mimic_cxr.convert(converted, size=16)
    mimic_cxr.convert(converted, converted / "fresh", size=16)
    for name in ("images.npy", "images.parquet"):
        assert (out / name).read_bytes() == (converted / "fresh" / name).read_bytes()
    assert not list(out.glob("images-*"))


def test_odd_views_and_identifiers_are_read(root):
    """Blanks, small letters, and identifiers as other programs write them."""
    expected = names_of(mimic_cxr.load(mimic_cxr.convert(root, root / "a", size=16)), root / "a")
    edit(
        root,
        "metadata",
        lambda table: table.assign(
            ViewPosition=" " + table["ViewPosition"].str.lower() + " ",
            subject_id="p" + table["subject_id"],
            study_id=table["study_id"] + ".0",
        ),
    )
    edit(root, "split", lambda table: table.assign(split=table["split"].str.title() + " "))
    found = mimic_cxr.load(mimic_cxr.convert(root, root / "b", size=16), split="official")
    assert names_of(found, root / "b") == expected
    assert set(found.groups["split"]) == {"train", "test"}


def test_what_contradicts_itself_is_left_out_and_counted(root):
    def contradict(table):
        other = table[table["study_id"] == "50000001"].assign(Edema="0.0")
        same = table[table["study_id"] == "50000002"]
        return pd.concat([table, other, same])

    edit(root, "chexpert", contradict)
    with pytest.warns(UserWarning, match="1 studies have rows of labels that contradict"):
        mimic_cxr.convert(root, root / "a", size=16)
    studies = set(mimic_cxr.load(root / "a").groups["study"].tolist())
    assert 50000001 not in studies
    assert 50000002 in studies
    flow = mimic_cxr.flow(root / "a").set_index("rule")
    assert flow.loc["rows of labels that do not differ", "excluded"] == 2
    edit(root, "metadata", lambda t: pd.concat([t, t[-2:-1].assign(subject_id="10000032")]))
    with pytest.warns(UserWarning, match="3 rows of the metadata give an image or a study to two"):
        mimic_cxr.convert(root, root / "b", size=16)
    assert 50000119 in studies
    assert 50000119 not in mimic_cxr.load(root / "b").groups["study"]


@pytest.mark.parametrize("kind", ["16 bits", "32 bits", "floats", "turned"])
def test_pictures_of_other_forms_become_the_same(kind):
    """Deep grey keeps its shades, a turned picture is turned back."""
    picture_8 = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = pictures.square(Image.fromarray(picture_8), 16)
    if kind == "turned":
        other = Image.fromarray(np.rot90(picture_8))  # tag 6: turn by 90 degrees to the right
        exif = other.getexif()
        exif[0x0112] = 6
    else:
        dtype = {"16 bits": np.uint16, "32 bits": np.int32, "floats": np.float32}[kind]
        other = Image.fromarray(picture_8.astype(dtype) * dtype(16) + dtype(3))
    np.testing.assert_array_equal(pictures.square(other, 16), expected)


def test_one_huge_picture_does_not_stop_the_rest(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # error from twice as many on
    huge = root / "files" / "p10" / "p10000032" / "s50000001" / "50000001-1.jpg"
    Image.new("L", (400, 400)).save(huge)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    out = mimic_cxr.convert(root, size=16)
    why = pd.read_csv(out / "unreadable.csv").set_index("dicom_id")["why"]
    assert why["50000001-1"] == "too many pixels"
    assert len(mimic_cxr.load(out)) == len(expected_pairs()) - 1


# ---------------------------------------------------------------- refusals


def test_few_patients_have_no_published_split(root):
    edit(root, "metadata", lambda table: table[table["subject_id"].isin(["10000032", "14000005"])])
    out = mimic_cxr.convert(root, size=16)
    with pytest.raises(ValueError, match=r"fewer than 6 patients .*Pass split='official'"):
        mimic_cxr.load(out)
    assert len(mimic_cxr.load(out, split="official")) == 6


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("chexpert", "Edema", "2", r"chexpert.csv.gz: Edema is not 1, 0, -1 or blank in 1 rows"),
        ("chexpert", "Edema", "secret", r"Edema is not .* in 1 rows, first in row 4"),
        ("metadata", "subject_id", "secret", r"subject_id is not a whole number in 1 rows"),
        ("metadata", "dicom_id", "../../secret", r"dicom_id is not letters, .* in 1 rows"),
        ("split", "split", "secret", r"1 rows stand in none of the parts train, validate, test"),
    ],
)
def test_values_that_are_none_are_refused_without_being_shown(root, table, column, value, message):
    def change(frame):
        frame.loc[frame.index[3], column] = value
        return frame

    edit(root, table, change)
    with pytest.raises(ValueError, match=message) as told:
        mimic_cxr.convert(root, size=16)
    assert "secret" not in str(told.value)


def test_a_table_that_is_cut_off_is_told(root):
    path = root / "mimic-cxr-2.0.0-chexpert.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"^mimic-cxr-2.0.0-chexpert.csv.gz is cut off or damaged"):
        mimic_cxr.convert(root, size=16)


def test_a_folder_with_another_conversion_is_refused(converted):
    with pytest.raises(ValueError, match=r"holds 57 images of 16 px, and this is 57 of 20 px\."):
        mimic_cxr.convert(converted, converted / "dfdlib-16", size=20)
    path = converted / "mimic-cxr-2.0.0-metadata.csv.gz"
    metadata = pd.read_csv(path, dtype=str)
    metadata.assign(dicom_id="other-" + metadata["dicom_id"]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"this is 57 of 16 px, other ones. Pass another"):
        mimic_cxr.convert(converted, size=16)


def test_a_full_disk_is_told_before_anything_is_converted(root, monkeypatch):
    monkeypatch.setattr(pictures.shutil, "disk_usage", lambda _: type("U", (), {"free": 3}))
    with pytest.raises(OSError, match=r"has 0.0 GB free, and the array needs 0.0 GB more. Pass"):
        mimic_cxr.convert(root, size=16)


def test_images_that_cannot_be_read_at_all_are_refused(root, monkeypatch):
    for file in (root / "files").rglob("*.jpg"):
        file.unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"none of the 57 images can be read: 57 not there.*p<subject_id>/s<study_id>",
    ):
        mimic_cxr.convert(root, size=16)
    assert not list((root / "dfdlib-16").iterdir())


def test_what_is_not_there_is_told(root, tmp_path_factory):
    with pytest.raises(
        FileNotFoundError, match=r"no converted images of 224 px.*data convert mimic-cxr"
    ):
        mimic_cxr.load(root)
    with pytest.raises(ValueError, match=r"size=0, workers=1. Pass 1 or more of each"):
        mimic_cxr.convert(root, size=0)
    (root / "files").rename(root / "jpegs")
    with pytest.raises(FileNotFoundError, match=r"no folder 'files' with the images.*physionet"):
        mimic_cxr.convert(root)
    (root / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no mimic-cxr-2.0.0-chexpert.csv"):
        mimic_cxr.convert(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": "al"}, "'al' is not a way to pair .*mean 'all'"),
        ({"uncertain": "one"}, "'one' is not a way to read uncertain labels .*mean 'ones'"),
        ({"split": "offical"}, "'offical' is not a split .*mean 'official'"),
    ],
)
def test_unknown_options_are_refused(converted, options, message):
    with pytest.raises(ValueError, match=message):
        mimic_cxr.load(converted, size=16, **options)


def test_a_split_that_is_missing_or_wrong_is_refused(root):
    path = root / "mimic-cxr-2.0.0-split.csv.gz"
    table = pd.read_csv(path)
    table.loc[0, "split"] = "validate"
    table.to_csv(path, index=False)
    mimic_cxr.convert(root, root / "a", size=16)
    with pytest.raises(ValueError, match="1 patients stand in two parts of the official"):
        mimic_cxr.load(root / "a", split="official")
    path.unlink()
    mimic_cxr.convert(root, root / "b", size=16)
    with pytest.raises(
        ValueError, match=r"55 of 55 images have no official split. Put .* and convert again"
    ):
        mimic_cxr.load(root / "b", split="official")
    assert len(mimic_cxr.load(root / "b")) == len(expected_pairs())


def test_tables_without_a_pair_are_refused(root):
    path = root / "mimic-cxr-2.0.0-metadata.csv.gz"
    table = pd.read_csv(path)
    table[table["ViewPosition"] != "LL"].replace("LATERAL", "PA").to_csv(path, index=False)
    with pytest.raises(
        ValueError, match=r"no study of the tables has a frontal and a lateral image"
    ):
        mimic_cxr.convert(root)


def test_the_manifest_says_what_was_converted(converted):
    card = json.loads((converted / "dfdlib-16" / "conversion.json").read_text())
    assert (card["size"], card["images"]) == (16, 57)


def test_made_up_studies_convert_and_load(tmp_path):
    """Against pandas on the files: pairs per study, labels, parts, and two of the images."""
    root = made_up.write("mimic_cxr", tmp_path, n=40, seed=3, pixels=20)
    out = mimic_cxr.convert(root, size=16)
    cohort = mimic_cxr.load(root, size=16, split="official", uncertain="ignore")
    bad = set(pd.read_csv(out / "unreadable.csv")["dicom_id"])
    metadata, chexpert, split = (
        pd.read_csv(root / f"mimic-cxr-2.0.0-{name}.csv.gz")
        for name in ("metadata", "chexpert", "split")
    )
    side = metadata["ViewPosition"].map({"AP": 0, "PA": 0, "LL": 1, "LATERAL": 1})
    good = metadata[~metadata["dicom_id"].isin(bad)].assign(side=side).dropna(subset="side")
    views = good.groupby(["study_id", "side"]).size().unstack(fill_value=0)
    pairs = (views[0] * views[1])[views.index.isin(chexpert["study_id"])]
    counts = pd.Series(cohort.groups["study"]).value_counts().sort_index()
    assert counts.to_dict() == pairs[pairs > 0].to_dict()
    assert len(cohort) > 30
    given = chexpert.set_index("study_id").loc[cohort.groups["study"], LABELS].to_numpy()
    expected = np.where(np.isnan(given), 0, np.where(given == -1, np.nan, given))
    np.testing.assert_array_equal(cohort.y, expected)
    part_of = split.drop_duplicates("subject_id").set_index("subject_id")["split"]
    assert (cohort.groups["split"] == part_of.loc[cohort.groups["patient"]]).all()
    names = names_of(cohort, out)[1]
    for row in (0, len(cohort) - 1):
        with Image.open(next((root / "files").rglob(f"{names[row]}.jpg"))) as image:
            expected = torch.from_numpy(pictures.square(image, 16) / 255).float()
        batch = next(cohort.select([row]).batches(1))
        assert torch.equal(batch.x["lateral"][0, 0], expected)
