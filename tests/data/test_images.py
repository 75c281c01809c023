"""Images that stay on disk: cohorts of them against the same pixels in memory."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from dfdlib.data import Cohort
from dfdlib.data.arrays import Images
from dfdlib.evaluation import predict_proba
from dfdlib.models import GRAPE, Classifier
from dfdlib.models.vae import MultimodalVAE
from dfdlib.training import Stage, fit

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, size=(6, 1, 4, 5), dtype=np.uint8)
ROWS = torch.tensor([5, 0, 0, -1, 3, 2, 1, 4])


@pytest.fixture
def mapped(tmp_path):
    np.save(tmp_path / "pixels.npy", PIXELS)
    return np.load(tmp_path / "pixels.npy", mmap_mode="r")


class Flat(nn.Module):
    """An encoder of images, with its pixels as they come."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(20, 8)

    def forward(self, values, flags):
        return self.net(values.flatten(1))


class Pair(nn.Linear):
    """An encoder of a VAE: mean and logarithm of the variance."""

    def __init__(self):
        super().__init__(20, 4)

    def forward(self, x):
        return super().forward(x.flatten(1)).chunk(2, dim=1)


class Back(nn.Linear):
    """A decoder of a VAE."""

    def __init__(self):
        super().__init__(2, 20)

    def forward(self, z):
        return super().forward(z).unflatten(-1, (1, 4, 5))


def expected(rows):
    return torch.from_numpy(np.where(rows[:, None, None, None] < 0, 0, PIXELS[rows]) / 255).float()


@pytest.mark.parametrize("index", [torch.tensor([7, 3, 0, 0]), ROWS < 2])
def test_rows_are_those_of_the_array(mapped, index):
    images = Images(mapped, ROWS)
    assert torch.equal(images[index].scaled(), expected(ROWS[index].numpy()))
    assert images[index].shape == (len(ROWS[index]), 1, 4, 5)


def test_a_cohort_cuts_and_batches_without_reading_pixels(mapped):
    labs = np.arange(8.0)
    cohort = Cohort(x={"xray": Images(mapped, ROWS), "labs": labs}, y=labs % 2)
    assert cohort.schema.kinds["xray"] == "image"
    assert cohort.schema.sizes["xray"] == (1, 4, 5)
    assert cohort.observed[:, 0].tolist() == (ROWS >= 0).tolist()
    for part in cohort.split((0.5, 0.5)):
        assert np.shares_memory(part.x["xray"].pixels, mapped)
        for batch in part.batches(3, seed=0):
            rows = ROWS[batch.x["labs"][:, 0].long()].numpy()
            assert torch.equal(batch.x["xray"], expected(rows))
            assert torch.equal(batch.rows(torch.tensor([0])).x["xray"], expected(rows[:1]))


def test_a_memory_mapped_array_stays_where_it_is(mapped):
    cohort = Cohort(x={"xray": mapped})
    assert isinstance(cohort.x["xray"], Images)
    assert np.shares_memory(cohort.x["xray"].pixels, mapped)
    observed = np.array([[True], [False], [True], [True], [True], [True]])
    with pytest.warns(UserWarning, match="1 of 6 rows have nothing observed"):
        masked = Cohort(x={"xray": mapped}, observed=observed)
    batch = next(masked.batches(6))
    assert torch.equal(batch.x["xray"], expected(np.array([0, -1, 2, 3, 4, 5])))


def test_images_of_8_bits_are_scaled_alike_wherever_they_lie(mapped):
    in_memory = next(Cohort(x={"xray": PIXELS}).batches(6)).x["xray"]
    on_disk = next(Cohort(x={"xray": mapped}).batches(6)).x["xray"]
    assert in_memory.dtype == torch.float32
    assert torch.equal(in_memory, on_disk)
    floats = next(Cohort(x={"xray": PIXELS.astype(np.float32)}).batches(6)).x["xray"]
    assert torch.equal(floats, torch.from_numpy(PIXELS).float())


def test_batches_are_made_on_the_device_of_the_cohort(mapped):
    cohort = Cohort(x={"xray": Images(mapped, ROWS[:3])}).to("meta")
    assert cohort.x["xray"].device.type == "meta"
    assert cohort.x["xray"][torch.tensor([1])].scaled().device.type == "meta"


def test_a_model_is_fitted_and_stored_on_images_that_stay_on_disk(mapped, tmp_path):
    """The same weights as on the same pixels in memory; a run goes on only with the same images."""
    rows = torch.arange(6).repeat(4)
    labs = np.arange(24.0)
    stages = [Stage(epochs=1)]
    scores = []
    for xray in (Images(mapped, rows), PIXELS[rows.numpy()]):
        cohort = Cohort(x={"xray": xray, "labs": labs}, y=labs % 2)
        model = Classifier(backbone=GRAPE(d=8), schema=cohort.schema, encoders={"xray": Flat()})
        run = fit(model, cohort, stages=stages, folder=tmp_path / type(xray).__name__)
        scores.append(predict_proba(run.model, cohort))
    np.testing.assert_array_equal(*scores)
    other = Cohort(x={"xray": Images(mapped, rows.flip(0)), "labs": labs}, y=labs % 2)
    with pytest.raises(ValueError, match="holds the checkpoint of another run: train was"):
        fit(model, other, stages=stages, folder=tmp_path / "Images")


def test_a_vae_is_fitted_on_images_that_stay_on_disk(mapped):
    rows = torch.tensor([-1, *range(6)]).repeat(2)
    losses = []
    for xray in (Images(mapped, rows), np.where(rows[:, None, None, None] < 0, 0, PIXELS[rows])):
        cohort = Cohort(
            x={"xray": xray, "labs": np.arange(14.0)}, observed=np.c_[rows >= 0, np.ones(14, bool)]
        )
        torch.manual_seed(0)
        vae = MultimodalVAE(
            schema=cohort.schema, d_latent=2, encoders={"xray": Pair()}, decoders={"xray": Back()}
        )
        vae.prepare(cohort)
        vae.eval()
        losses.append(vae.loss(next(cohort.batches(14)))["total"].item())
    assert losses[0] == losses[1]


REFUSED = {
    "floats": (lambda: Images(PIXELS / 255.0), r"pixels are float64 of shape \(6, 1, 4, 5\)"),
    "no channel": (lambda: Images(PIXELS[:, 0]), r"uint8 of shape \(6, 4, 5\). Pass uint8 of sh"),
    "none": (lambda: Images(PIXELS[:0]), r"uint8 of shape \(0, 1, 4, 5\)"),
    "a position outside": (
        lambda: Images(PIXELS, torch.tensor([0, 6])),
        "row 1 has the image 6, but there are 6. Pass 0 to 5, -1 for none",
    ),
    "another kind": (
        lambda: Cohort(x={"xray": Images(PIXELS)}, kinds={"xray": "vector"}),
        r"modality 'xray' holds Images. Leave out kinds=\{'xray': ...\}",
    ),
    "observed without an image": (
        lambda: Cohort(x={"xray": Images(PIXELS, ROWS)}, observed=np.ones((8, 1), bool)),
        "'xray': row 3 is marked as observed but has no image",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_are_no_images_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


MEASURE = """
import json, sys
import numpy as np
from dfdlib.data import Cohort

def peak():  # of memory that is this process's own: pages of the file do not count
    status = open("/proc/self/status").read()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024

pixels = np.load(sys.argv[1], mmap_mode="r")
cohort = Cohort(x={"frontal": pixels, "lateral": pixels}, y=np.arange(len(pixels)) % 2)
before, largest = peak(), 0
for part in cohort.split():
    for batch in part.batches(32, seed=0):
        largest = max(largest, peak() - before)
print(json.dumps(largest))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_in_the_number_of_images(tmp_path):
    """Twice 100 MB of pixels, 800 MB as floats: cutting and reading all takes a few batches."""
    shape = (2000, 1, 224, 224)
    np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=np.uint8, shape=shape)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "a.npy"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) < 100  # MB; a batch of 32 pairs is 13 MB
