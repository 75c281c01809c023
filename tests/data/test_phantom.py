"""The phantom against brute force: rays sampled point by point, counts, and frozen pictures."""

import importlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dfdlib import causal
from dfdlib.data import check_disjoint, phantom
from dfdlib.data.phantom import projection as projection
from dfdlib.data.phantom.anatomy import Bodies, Draws, Thorax
from dfdlib.data.phantom.findings import Disease
from dfdlib.data.phantom.model import FINDINGS, NODE
from dfdlib.data.phantom.picture import Scene, _bare, expose
from dfdlib.data.phantom.picture import pose as draw_pose
from dfdlib.data.phantom.projection import Box, Interval, Pose, Shadows, Tube, crossed, splat

ROOT = Path(__file__).parents[2]
SIZE = 20
FULL = Box(0, SIZE, 0, SIZE)
DISEASES = [NODE[name] for name in FINDINGS if name != "Support Devices"]


def a_pose(view, *, turn=0.2, lean=0.1, n=1, size=SIZE, magnification=1.1):
    one = torch.ones(n)
    shift = torch.tensor([[0.7, -0.4]]).expand(n, 2)
    return Pose(view, size, turn * one, lean * one, magnification * one, shift)


def sampled(inside, pose, steps=2001):
    """Share of each ray within a body, point by point, in lengths on the detector."""
    depth = torch.linspace(-25, 25, steps, dtype=torch.float64)
    u, v = pose.u.double() - pose.shift[0, 0], pose.v.double() - pose.shift[0, 1]
    size, axes = pose.size, projection.AXES[pose.view]
    point = torch.zeros(size, size, steps, 3, dtype=torch.float64)
    point[..., axes[0]] = depth
    point[..., axes[1]] = u[None, :, None]
    point[..., axes[2]] = v[:, None, None]
    back = pose.rotation[0].double() / pose.magnification[0]  # of a row vector: the transpose
    return inside(point @ back).double().mean(-1) * 50


def ellipsoid(centre, axes, angles=(0, 0, 0), density=1.0):
    bodies = Bodies(1)
    bodies.add(centre, axes, angles, density)
    return bodies.build()


def holds(body):
    inverse = torch.linalg.inv(body.matrix[0, 0].double())
    centre = body.centre[0, 0].double()

    def inside(point):
        off = point - centre
        return ((off @ inverse) * off).sum(-1) <= 1

    return inside


def first(shadows):
    return Shadows(*(field[:, 0] for field in shadows))


def healthy(n, **changes):
    """Nodes of n patients without anything, but for the columns that are changed."""
    columns = {"female": np.zeros(n), "support_devices": np.zeros(n)}
    for name in DISEASES:
        columns |= {name: np.zeros(n), f"severity_{name}": np.zeros(n)}
    for name, severity in changes.items():
        columns[name] = np.ones(n)
        if name in DISEASES:
            columns[f"severity_{name}"] = np.full(n, severity)
    return pd.DataFrame(columns)


def integrals(view, n=12, size=32, **changes):
    """Line integrals of the same n thoraces, with a finding or without; and what is true."""
    draws = [Draws(np.random.default_rng(k), n, n) for k in range(2)]
    thorax = Thorax(draws[0], np.zeros(n))
    disease = Disease(thorax, healthy(n, **changes))
    return Scene(thorax, disease).integrals(draw_pose(draws[1], view, size)), disease.truth


def pictures(view, n=30, **changes):
    """The same pictures with a finding or without, noise and all."""
    taken, _ = integrals(view, n, **changes)
    rng = np.random.default_rng(2)
    return expose(taken, np.zeros(n, int), view, Draws(rng, n, n), np.random.default_rng(3))


BODIES = [
    ellipsoid((1.0, -2.0, 3.0), (6.0, 4.0, 9.0), (0.3, -0.5, 0.8)),
    ellipsoid((-4.0, 5.0, -6.0), (2.0, 8.0, 3.0), (0.0, 0.9, 0.2)),
]

# ---------------------------------------------------------------- geometry


@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize("body", BODIES)
def test_chords_of_an_ellipsoid_are_those_of_sampled_rays(view, body):
    pose = a_pose(view)
    chord = crossed(first(body.seen(pose)), pose, FULL).length[0]
    expected = sampled(holds(body), pose)
    assert expected.max() > 4
    torch.testing.assert_close(chord.double(), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("view", [0, 1])
def test_where_two_ellipsoids_meet_on_a_ray(view):
    """Middles of chords, too, are right: else their intersection would not be."""
    pose, (a, b) = a_pose(view), (BODIES[0], ellipsoid((3.0, 0.0, 0.0), (5.0, 5.0, 5.0)))
    both = crossed(first(a.seen(pose)), pose, FULL).both(crossed(first(b.seen(pose)), pose, FULL))
    expected = sampled(lambda point: holds(a)(point) & holds(b)(point), pose)
    assert expected.max() > 3
    torch.testing.assert_close(both.length[0].double(), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("view", [0, 1])
def test_chords_of_a_tube_are_those_of_sampled_rays(view):
    """Exact without a lean: a bent, tapered tube, turned."""
    pose = a_pose(view, lean=0.0)

    def at(z):
        return 1 + z / 6, -2 + 0.05 * z**2 / 4, 4 + z / 9, 2.5 - z / 20

    tube = Tube(*(at(pose.height)))
    chord = tube.seen(pose).chord(pose, FULL)[0]

    def inside(point):
        x, y, a, b = at(point[..., 2])
        return ((point[..., 0] - x) / a) ** 2 + ((point[..., 1] - y) / b) ** 2 <= 1

    expected = sampled(inside, pose)
    torch.testing.assert_close(chord.double(), expected, atol=0.05, rtol=0)
    strip = tube.seen(pose)
    assert strip.box(pose).right - strip.box(pose).left < SIZE


def test_a_leaning_tube_is_right_to_first_order():
    pose = a_pose(0, turn=0.0, lean=0.05)
    z = pose.height
    tube = Tube(torch.zeros_like(z), torch.zeros_like(z), 0 * z + 3, 0 * z + 5)
    chord = tube.seen(pose).chord(pose, FULL)[0]
    expected = sampled(lambda p: (p[..., 0] / 3) ** 2 + (p[..., 1] / 5) ** 2 <= 1, pose)
    assert (chord - expected).abs().mean() < 0.01 * expected.max()


@pytest.mark.parametrize("view", [0, 1])
def test_what_three_bodies_leave_of_a_lung(view):
    """Inclusion and exclusion, against points that are in one and in none of the others."""
    pose = a_pose(view, lean=0.0)
    lung = ellipsoid((2.0, 0.0, 1.0), (7.0, 8.0, 12.0))
    heart = ellipsoid((0.0, -3.0, -3.0), (6.0, 5.0, 5.0), (0, 0.4, 0))
    dome = ellipsoid((2.0, -1.0, -14.0), (9.0, 9.0, 9.0))
    cut = Shadows(*(torch.cat(f, 1) for f in zip(heart.seen(pose), dome.seen(pose), strict=True)))
    z = pose.height
    middle = Tube(0 * z - 1, 0 * z, 0 * z + 3, 0 * z + 4)
    left = _bare(
        crossed(first(lung.seen(pose)), pose, FULL),
        torch.tensor([0]), cut, 1, middle.seen(pose), pose, FULL,
    )[0]  # fmt: skip

    def inside(point):
        tube = ((point[..., 0] + 1) / 3) ** 2 + (point[..., 1] / 4) ** 2 <= 1
        return holds(lung)(point) & ~holds(heart)(point) & ~holds(dome)(point) & ~tube

    expected = sampled(inside, pose)
    assert ((expected > 0.5) & (expected < sampled(holds(lung), pose) - 0.5)).sum() > 25
    torch.testing.assert_close(left.double(), expected, atol=0.06, rtol=0)


@pytest.mark.parametrize("view", [0, 1])
def test_splat_is_the_chord_where_there_is_no_blur(view, monkeypatch):
    monkeypatch.setattr(projection, "BLUR", 0.0)
    pose = a_pose(view, n=2)
    bodies = Bodies(2)
    bodies.add((1.0, -2.0, [3.0, -20.0]), (6.0, 4.0, 9.0), (0.3, -0.5, 0.8), 0.7, 0.2)
    bodies.add((-4.0, 5.0, -6.0), (1.0, 2.0, 1.0), (0.0, 0.9, 0.2), [0.3, 0.0])
    built = bodies.build()
    shadows = built.seen(pose)
    slow = sum(
        crossed(Shadows(*(f[:, k] for f in shadows)), pose, FULL).length
        * built.density[:, k, view, None, None]
        for k in range(2)
    )
    torch.testing.assert_close(splat(shadows, pose), slow, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("size", [16, 64, 200])
@pytest.mark.parametrize("axes", [(5.0, 0.15, 0.15), (0.1, 0.1, 0.1), (4.0, 6.0, 8.0)])
def test_splat_keeps_mass_however_thin_the_line(size, axes):
    """Density × volume, at any resolution: a line thinner than a pixel is faint, not broken."""
    pose = a_pose(0, size=size)
    image = splat(ellipsoid((0.3, 0, 0.2), axes, (0.4, 0.7, 0.1), 2.0).seen(pose), pose)
    volume = 2.0 * 4 / 3 * np.pi * np.prod(axes) * 1.1**3
    # what is left is that pixels sample it at their centres
    assert float(image.sum()) * pose.pixel**2 == pytest.approx(volume, rel=0.15)


def test_an_empty_interval_stays_empty():
    a = Interval(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 3.0]))
    b = Interval(torch.tensor([2.0, 1.0]), torch.tensor([4.0, 9.0]))
    assert a.both(b).length.tolist() == [0, 2]


# ---------------------------------------------------------------- findings


def test_a_lesion_adds_its_mass_where_truth_says():
    for view, across in ((0, "x"), (1, "y")):
        before, _ = integrals(view, size=64)
        after, truth = integrals(view, size=64, lung_lesion=0.8)
        change = after - before
        mass = 0.155 * 4 / 3 * np.pi * truth["lesion_radius"] ** 3
        np.testing.assert_allclose(change.sum((1, 2)) * (36 / 64) ** 2, mass, rtol=0.25)
        # the brightest pixel lies at its centre, but for turn, lean and shift of a patient
        row, column = np.divmod(change.flatten(1).argmax(1).numpy(), 64)
        off = (column + 0.5) * 36 / 64 - 18 - truth[f"lesion_{across}"]
        assert np.abs(off).mean() < 1.5
        assert np.abs(18 - (row + 0.5) * 36 / 64 - truth["lesion_z"]).mean() < 1.5


def test_each_disease_changes_both_views_and_grows_with_its_severity():
    for view in (0, 1):
        base, _ = integrals(view)
        for name in DISEASES:
            mild, severe = (
                (integrals(view, **{name: s})[0] - base).abs().mean().item() for s in (0.2, 1.0)
            )
            assert severe > 1e-3, name
            assert severe > 1.3 * mild, name


def test_what_becomes_denser_and_what_lighter():
    base, _ = integrals(0)
    for name in ("edema", "consolidation", "pleural_effusion", "lung_lesion", "support_devices"):
        assert (integrals(0, **{name: 1.0})[0] - base).mean((1, 2)).min() > 0, name
    # what a lung loses to the air around it
    lost = integrals(0, pneumothorax=1.0)[0] - base
    assert lost.amin((1, 2)).max() < -0.05


def test_an_effusion_shows_in_the_lateral_view_first():
    """Fluid that does not reach the sulcus at the side changes the lateral picture more."""
    change = {}
    for view in (0, 1):
        for severity in (0.5, 1.0):
            before, after = (
                pictures(view, **options) for options in ({}, {"pleural_effusion": severity})
            )
            top = (after - before).abs().flatten(1).topk(10).values
            change[view, severity] = top.mean().item()
    assert change[1, 0.5] > 1.15 * change[0, 0.5]
    assert change[0, 1.0] > 2 * change[0, 0.5]


def test_a_lesion_behind_the_heart_shows_in_the_lateral_view():
    change = {}
    for view in (0, 1):
        before, after = (pictures(view, n=60, **k) for k in ({}, {"lung_lesion": 1.0}))
        _, truth = integrals(view, n=60, lung_lesion=1.0)
        top = (after - before).flatten(1).topk(5).values.mean(1).numpy()
        behind = truth["lesion_behind_heart"]
        change[view] = top[behind].mean(), top[~behind].mean()
    assert change[1][0] > 1.15 * change[0][0]
    assert change[0][0] < 0.8 * change[0][1]


def test_half_of_the_diseases_come_together_and_no_finding_means_none():
    nodes = phantom.scm().sample(50_000, full=True)
    assert ((nodes[DISEASES].sum(axis=1) == 0) == (nodes["no_finding"] == 1)).all()
    assert nodes[[NODE[label] for label in phantom.LABELS]].mean().between(0.06, 0.5).all()
    for a, b in [
        ("edema", "cardiomegaly"),
        ("pleural_effusion", "edema"),
        ("support_devices", "pneumothorax"),
        ("atelectasis", "pleural_effusion"),
    ]:
        assert nodes.loc[nodes[b] == 1, a].mean() > 1.5 * nodes.loc[nodes[b] == 0, a].mean()
    for name in DISEASES:
        severity = nodes.loc[nodes[name] == 1, f"severity_{name}"]
        assert severity.between(0.2, 1).all()
        assert severity.mean() == pytest.approx(0.6, abs=0.02)
        assert (nodes.loc[nodes[name] == 0, f"severity_{name}"] == 0).all()


# ---------------------------------------------------------------- cohorts


@pytest.fixture(scope="module")
def cohort():
    return phantom.load(n=130, size=32, seed=3)


def test_a_cohort_is_what_the_docstring_says(cohort):
    assert cohort.schema.kinds == {"frontal": "image", "lateral": "image"}
    assert cohort.schema.n_outputs == len(phantom.LABELS) == 9
    for view in phantom.VIEWS:
        x = cohort.x[view]
        assert x.shape == (130, 1, 32, 32)
        assert x.dtype == torch.float32
        assert x.min() >= 0
        assert x.max() <= 1
        # exposed well: few pixels are white, and patients differ
        assert (x >= 0.999).float().mean() < 0.04
        assert (x.flatten(1).std(dim=0) > 0.02).float().mean() > 0.5
    assert set(cohort.groups["scanner"]) == set(phantom.SCANNERS)
    assert set(cohort.covariates) == {"sex", "intensive_care"}
    columns = ", ".join(phantom.TRUTH).replace("severity_<finding>", "severity_edema").split(", ")
    assert set(columns) <= set(cohort.truth)
    assert cohort.truth.attrs["labels"] == list(phantom.LABELS)
    for name in DISEASES:
        label = phantom.LABELS.index(next(k for k, v in NODE.items() if v == name))
        present = cohort.truth[f"severity_{name}"].to_numpy() > 0
        np.testing.assert_array_equal(cohort.y[:, label].numpy() == 1, present)
    assert (cohort.truth["lesion_x"].notna() == (cohort.truth["severity_lung_lesion"] > 0)).all()


def test_it_looks_like_a_chest(cohort):
    """Lungs are dark; heart, spine and what lies under the diaphragm are light; corners black."""
    frontal = cohort.x["frontal"].mean(dim=0)[0]
    lungs, middle = frontal[10:20, [9, 10, 21, 22]].mean(), frontal[10:20, 15:17].mean()
    below, corner = frontal[28:, 10:22].mean(), frontal[20:, :2].mean()
    assert corner < lungs < middle
    assert lungs + 0.25 < min(middle, below)
    lateral = cohort.x["lateral"].mean(dim=0)[0]
    behind_heart, heart, belly = (
        lateral[18, 19:21].mean(),
        lateral[18, 13:15].mean(),
        lateral[28, 16],
    )
    assert behind_heart < heart < belly


def test_a_larger_cohort_begins_with_the_same_patients(cohort):
    small = phantom.load(n=70, size=32, seed=3)
    for view in phantom.VIEWS:
        torch.testing.assert_close(small.x[view], cohort.x[view][:70], atol=1e-5, rtol=0)
    assert torch.equal(small.y, cohort.y[:70])
    pd.testing.assert_frame_equal(small.truth, cohort.truth.iloc[:70])


def test_seeds_and_worlds_hold_other_patients(cohort):
    again = phantom.load(n=20, size=32, seed=3)
    assert torch.equal(again.x["frontal"], phantom.load(n=20, size=32, seed=3).x["frontal"])
    others = [phantom.load(n=20, size=32, seed=4)]
    others += [
        phantom.load(n=20, size=32, seed=3, world=w) for w in ("id", "shifted", "randomised")
    ]
    check_disjoint(again, *others)
    for other in others:
        assert (other.x["frontal"] - again.x["frontal"]).abs().mean() > 0.02


def test_a_larger_picture_is_of_the_same_patient():
    small, large = phantom.load(n=8, size=32), phantom.load(n=8, size=64)
    for view in phantom.VIEWS:
        pooled = torch.nn.functional.avg_pool2d(large.x[view], 2).flatten(1)
        for a, b in zip(pooled, small.x[view].flatten(1), strict=True):
            assert np.corrcoef(a, b)[0, 1] > 0.97


def test_a_shortcut_changes_the_scanner_and_nothing_else():
    plain, biased = (phantom.load(n=40, size=32, shortcut=s) for s in (None, "Edema"))
    same = plain.groups["scanner"] == biased.groups["scanner"]
    assert 5 < same.sum() < 35
    assert torch.equal(plain.y, biased.y)
    assert torch.equal(plain.x["frontal"][same], biased.x["frontal"][same])
    assert (plain.x["frontal"] - biased.x["frontal"])[~same].abs().mean() > 0.02


@pytest.mark.parametrize(
    ("world", "strength", "agree"),
    [("train", 1, 0.953), ("id", 1, 0.953), ("shifted", 1, 0.047), ("randomised", 1, 0.5),
     ("train", 0, 0.5), ("train", 2, 0.998)],
)  # fmt: skip
def test_how_closely_the_scanner_follows(world, strength, agree):
    for finding in ("Pneumothorax", "No Finding"):
        scm = phantom.scm(shortcut=finding, world=world, strength=strength)
        nodes = scm.sample(40_000, full=True)
        assert (nodes["scanner"] == nodes[NODE[finding]]).mean() == pytest.approx(agree, abs=0.01)


def complete(**options):
    nodes = phantom.scm(**options).sample(100_000, full=True)
    assert (nodes[["R_frontal", "R_lateral"]].max(axis=1) == 1).all()
    assert (nodes[["R_frontal", "R_lateral"]].min(axis=1) == nodes["complete"]).all()
    return nodes


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("missing", ["mcar", "mar", "mnar"])
def test_as_many_views_are_missing_under_every_mechanism(missing, strength):
    nodes = complete(missing=missing, strength=strength)
    shares = nodes[["complete", "R_frontal", "R_lateral"]].mean()
    np.testing.assert_allclose(shares, [0.6, 0.9, 0.7], atol=0.01)


def test_what_drives_the_mask():
    def by_burden(nodes):
        ill = nodes["burden"] > 0.6
        return nodes.loc[ill, "complete"].mean() - nodes.loc[~ill, "complete"].mean()

    assert abs(by_burden(complete(missing="mcar"))) < 0.015
    mar = complete(missing="mar")
    care = mar["intensive_care"] == 1
    assert mar.loc[care, "complete"].mean() < mar.loc[~care, "complete"].mean() - 0.4
    for group in (mar[care], mar[~care]):
        assert abs(by_burden(group)) < 0.02
    mnar = complete(missing="mnar")
    for level in (0, 1):
        assert by_burden(mnar[mnar["intensive_care"] == level]) < -0.3
    assert abs(by_burden(complete(missing="mnar", world="randomised"))) < 0.015
    assert causal.paths(phantom.scm(missing="mnar").graph, "burden", "R_lateral") is not None


def test_a_view_that_is_missing_is_empty():
    cohort = phantom.load(n=60, size=16, missing="mnar")
    whole = phantom.load(n=60, size=16)
    assert cohort.observed.any(dim=1).all()
    assert not cohort.observed.all()
    for k, view in enumerate(phantom.VIEWS):
        there = cohort.observed[:, k]
        assert torch.equal(cohort.x[view][there], whole.x[view][there])
        assert not cohort.x[view][~there].any()


# ---------------------------------------------------------------- frozen

#: Of the first 64 patients: two of them, the mean and twice the spread of all, 8 × 8, in 1/255.
PICTURES = {
    "frontal": (
        "2625516f6f50260c6077648c9669766661694f90b56065712c454094c25f414d"
        "182f3791d56a2f3913283595dc9034330f386eaee09d76470a5ea8d1e6cca560"
        "1d032752451200002b4c5a79755a40235e6f4a8e95587047374e3f9ba8404723"
        "253e3b9ec14c321a1f4345a4dc71341c1770aad1dfa662201273bedee8c38424"
        "10062556532106012d4e5b7d7a5c4c2947704d8e944f70401d4b3c9aa03c4a1a"
        "123336a7b743321111324ab9cc65300f1056a2d4d18e470f106abbe0e0b5620f"
        "21142a24242a13042e332b2a2b2a312e2d29233132252836272e203130232d33"
        "1c2720332a3025281b2a3834204126251b323322223a39271d2e1d16161f342a"
    ),
    "lateral": (
        "1d000a7188270000000031a48d6b060000015f9ca88b1e0000036a97af8d2b00"
        "00096da0a07e2a00000b79b7a2792900000a90dbd08a2700000696f8fdc62800"
        "1d0017646a1e00000000448f7e5c07000009748d8f7e23000017718c9a853300"
        "00287b97917a330000338ba99078320000229cd9d2a53300001796e1e9b73300"
        "0f000b505a14000000002c85704c04000005597c7f711800000c5d768b772600"
        "0017618983662500002178a987612300001a92dbc87f2300001294ebf0b02400"
        "1d00172f322300000003373a2e3a0e0000113f2d2b302500001d332a2e2f2f00"
        "002b302b2e2b2f00013d3b272f2b2e0000363c1b383d2f00002e4c1c19463400"
    ),
}
#: The same of version 2.
PICTURES_2 = {
    "frontal": (
        "25234e68684d230b587163838a67715e58634f86a55e61682842418ab25d4047"
        "162f3989c46631361129378dcb8835310e3668a3ce936e4209559bc3d4be9858"
        "1d032a4e44150100294b5b716f5b3f22586a4e868c596c45344d43919c444724"
        "223e3f95b44e351b1d42489bcd6f371d1668a0c4d09d5f21116ab2cfd8b87c24"
        "1007244e4d210601294957716f57462640674d81884e663a1b463d8b923d4518"
        "11313899a7423010103048a9ba5f2f0e0f4e94c1bf82410e0f5faacccca4580e"
        "2214282222281205292f282528272e29282423282e24243123291f2a2c23282e"
        "19241f2c282d22241726322c1f392222182d2e1e203332231a2a1c14151d2f26"
    ),
    "lateral": (
        "22060f526a3b0806060729736a6a1a070608476e7b7c390706094e6a817c4408"
        "060e507178714308061057827a6f4208060f67a2a37b4108060c6cc3d4ad4208"
        "24091f59663a0b08080a427871692109081365767b7f450a091f63768383550b"
        "0a2c697e7f7b550b0b36748b7f7a540b092982b3b39c550b091f7dbbc7ac550b"
        "10010b3e4f230201010124635b550f010105465d636f2f01010c47596c724002"
        "01144b6769653f02011b5a806d623d0201166fada57b3c02011072c0cea53d02"
        "200415252728070403062b2a25301a0404102d2424262c06041a262626243208"
        "0422272826253208042e2d292a2532080429311d3333330704243d1c15313707"
    ),
}
LABELLED = [21, 15, 9, 7, 11, 10, 3, 12, 12]
TRUTH = {
    "burden": 40.64,
    "heart": 67.22,
    "lesion_x": 33.63,
    "lesion_radius": 14.23,
    "fluid_right": -28.86,
    "fluid_left": -44.05,
    "pneumothorax_side": 1.0,
}


@pytest.mark.parametrize(("version", "pictures"), [(1, PICTURES), (2, PICTURES_2)])
def test_the_generator_is_frozen(version, pictures):
    """Models are compared on these patients: pictures, labels and truth stay as they are."""
    cohort = phantom.load(n=64, size=32, seed=0, version=version)
    assert cohort.y.sum(0).tolist() == LABELLED
    assert cohort.truth[list(TRUTH)].sum().to_dict() == pytest.approx(TRUTH, abs=0.01)
    for view, stored in pictures.items():
        x = cohort.x[view]
        shown = torch.cat([x[:2], x.mean(0, keepdim=True), 2 * x.std(0, keepdim=True)])
        small = 255 * torch.nn.functional.avg_pool2d(shown, 4).flatten()
        expected = torch.tensor(list(bytes.fromhex(stored)), dtype=torch.float32)
        torch.testing.assert_close(small, expected, atol=1.5, rtol=0)


@pytest.fixture(scope="module")
def checked():
    return json.loads((ROOT / "results" / "phantom.json").read_text("utf-8"))


@pytest.fixture
def script(monkeypatch):
    """What froze the generator."""
    monkeypatch.syspath_prepend(ROOT / "workflow")
    return vars(importlib.import_module("measures.phantom"))


def test_what_was_measured_is_of_this_generator(checked, script):
    now = script["drawn"]()
    assert script["same"](checked["drawn"], now), (
        "the generator draws other patients than when results/phantom.json was written. It is "
        "frozen: take the change back"
    )
    if now["sha256"] != checked["generator"]:
        pytest.skip("the same patients, but this processor rounds some pixels to another level")


def test_a_supervised_network_sees_every_finding(checked):
    assert set(checked["auroc"]) == set(phantom.VIEWS)
    for scores in checked["auroc"].values():
        assert scores["macro"]["low"] > 0.75
        assert min(scores[label]["low"] for label in phantom.LABELS) > 0.60


def test_the_lateral_view_shows_what_the_frontal_hides(checked):
    for name in ("lesion behind the heart", "effusion in the posterior sulcus only"):
        assert checked["by_view"][name]["lateral minus frontal"]["low"] > 0


def one_grey_level(cohort):
    cohort.x["lateral"][5, 0, 16, 16] += 1 / 255


def last_bits(cohort):
    for image in cohort.x.values():
        image *= 1 + 1e-7 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))


def one_label(cohort):
    cohort.y[7, 3] = 1 - cohort.y[7, 3]


def one_truth(cohort):
    cohort.truth.loc[9, "heart"] += 0.01


@pytest.mark.parametrize("change", [one_grey_level, one_label, one_truth])
def test_a_change_of_one_patient_is_seen(change, script, monkeypatch):
    before = script["drawn"]()
    monkeypatch.setattr(phantom, "load", changed_by(change, phantom.load))
    after = script["drawn"]()
    assert after["sha256"] != before["sha256"]
    assert not script["same"](before, after)


def test_last_bits_are_no_change(script, monkeypatch):
    before = script["drawn"]()
    monkeypatch.setattr(phantom, "load", changed_by(last_bits, phantom.load))
    assert script["same"](before, script["drawn"]())


def changed_by(change, load):
    def changed(**options):
        cohort = load(**options)
        change(cohort)
        return cohort

    return changed


# ---------------------------------------------------------------- version 2


def test_version_2_has_the_patients_of_version_1():
    options = {"n": 80, "size": 16, "seed": 3, "missing": "mnar", "shortcut": "Edema"}
    one, two = (phantom.load(version=version, **options) for version in (1, 2))
    assert torch.equal(one.y, two.y)
    assert torch.equal(one.observed, two.observed)
    pd.testing.assert_frame_equal(one.truth, two.truth)
    assert (one.groups["scanner"] == two.groups["scanner"]).all()
    assert (one.x["lateral"] - two.x["lateral"]).abs().mean() > 0.01
    phantom_1 = phantom.load(**options)
    assert torch.equal(phantom_1.x["frontal"], one.x["frontal"])


def beyond_the_skin(version, n=40, size=128):
    """Attenuation that healthy men have where no ray meets the body, from the side."""
    draws = [Draws(np.random.default_rng(k), n, n) for k in range(2)]
    thorax = Thorax(draws[0], np.zeros(n), version=version)
    scene = Scene(thorax, Disease(thorax, healthy(n)))
    pose = draw_pose(draws[1], 1, size)
    # the detector blurs by less than a pixel
    chord = thorax.body(1, pose.height).seen(pose).chord(pose, Box(0, size, 0, size))
    near = torch.nn.functional.max_pool2d(chord[:, None], 3, 1, 1)[:, 0] > 0
    outside = scene.integrals(pose).masked_fill(near, 0)
    return outside[:, : size * 7 // 8]


def test_in_version_2_no_bone_sticks_out_of_the_body_from_the_side():
    assert beyond_the_skin(1).amax((1, 2)).median() > 0.1
    assert beyond_the_skin(2).max() < 0.02


def profile(version, view, rows, n=24, size=96):
    """Mean film over some rows of healthy people, who stand still in the middle."""
    draws = [Draws(np.random.default_rng(k), n, n) for k in range(2)]
    thorax = Thorax(draws[0], np.zeros(n), version=version)
    scene = Scene(thorax, Disease(thorax, healthy(n)))
    one = torch.ones(n)
    pose = Pose(view, size, 0 * one, 0 * one, one, torch.zeros(n, 2))
    z = pose.height[0]
    there = (z > rows[0]) & (z < rows[1])
    return scene.integrals(pose)[:, there].mean((0, 1)), pose.u


def test_in_version_2_the_trachea_is_a_dark_band_in_the_mediastinum():
    depth = {}
    for version in (1, 2):
        line, u = profile(version, 0, (6.0, 8.0))
        middle, beside = (
            line[(u + 0.2).abs() < 0.5].mean(),
            line[((u + 0.2).abs() - 1.6).abs() < 0.3],
        )
        depth[version] = float(beside.mean() - middle)
    assert depth[1] < 0.02 < 0.06 < depth[2]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, r"n=0 is out of range\. Pass 1 to 1000000000"),
        ({"seed": -1}, r"seed=-1 is out of range\. Pass 0 to 2147483647"),
        ({"size": 8}, r"size=8 pixels is out of range\. Pass 16 to 512"),
        ({"missing": "mnra"}, r"'mnra' is not a missing of phantom cohorts .* mean 'mnar'\?"),
        ({"world": "test"}, r"'test' is not a world of phantom cohorts \(train, id, shifted"),
        ({"shortcut": "Oedema"}, r"'Oedema' is not a finding of phantom cohorts .* mean 'Edema'\?"),
        (
            {"version": 3},
            r"version=3 of the phantom does not exist\. Pass version=1, which results",
        ),
        ({"version": True}, r"version=True of the phantom does not exist"),
        ({"strength": 3}, r"strength=3 is out of range\. Pass 0 \(scanner and missing views are"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        phantom.load(**{"n": 1, "size": 16} | options)
