import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from fakes import FIRST_LAB, FakeEntry, square, stained, write_png, write_pyramid

from qp2train import Annotation, ArraySlide, LabelMap, open_slide, paint, sample_patches
from qp2train.learn.augment import Augmentation
from qp2train.learn.data import PatchDataset, plain_loader, train_loader
from qp2train.slides.reading import Reading
from qp2train.slides.stain import NormalisedSlide


def test_an_item_is_the_read_patch_and_its_painted_mask(two_colours):
    dataset = PatchDataset(two_colours)
    image, mask = dataset[3, 0]
    assert image.shape == (3, 64, 64)
    assert mask.shape == (64, 64)
    ref, box = list(two_colours)[3]
    assert np.array_equal(mask.numpy(), paint(ref.annotations, two_colours.labels, box=box, size=(64, 64)))
    inside = (box.x >= 0, box.y >= 0, box.right <= 256, box.bottom <= 256)
    red = image[0].numpy() > 120
    if all(inside):
        assert (red == (mask.numpy() == 1)).mean() > 0.95


@pytest.mark.parametrize("strength", ["none", "medium"])
@pytest.mark.parametrize("mpp", [0.5, 1.0, 1.3])
def test_picture_and_mask_cover_the_same_place_at_any_scale(tmp_path, strength, mpp):
    """The patch read for augmentation has a margin; it lies round the patch in picture and mask alike."""
    array = np.zeros((400, 400, 3), np.uint8)
    array[100:200, 120:260] = 255
    path = write_pyramid(tmp_path / "p.tif", [array], mpp=0.5)
    import shapely

    drawn = [Annotation(shapely.box(120, 100, 260, 200), "Tumor"), square(-99, -99, 999, "Region*")]
    entry = FakeEntry("a", drawn, array, 0.5, path=str(path))
    table = sample_patches([entry], LabelMap(["Tumor"]), size=50, mpp=mpp, per_class=6)
    dataset = PatchDataset(table, Augmentation(50, strength))
    for row in range(len(table)):
        image, mask = dataset.raw(row)
        certain = ((image[..., 0] > 200) | (image[..., 0] < 50)) & _on_slide(table, row, image.shape[0])
        assert ((image[..., 0] > 127) == (mask == 1))[certain].all()
        assert (image.shape[0] == 50) == (strength == "none")


def _on_slide(table, row: int, px: int) -> np.ndarray:
    box = table.box(row)
    scale = box.width / table.size_px
    middle = np.arange(px) + 0.5 - (px - table.size_px) / 2
    x, y = box.x + middle * scale, box.y + middle * scale
    ok_x, ok_y = (x > 2) & (x < 398), (y > 2) & (y < 398)
    return ok_y[:, None] & ok_x[None, :]


def test_beyond_the_border_nothing_is_annotated_unless_somebody_drew_there(tmp_path):
    array = np.zeros((50, 50, 3), np.uint8)
    path = write_png(tmp_path / "a.png", array)
    table = sample_patches(
        [FakeEntry("a", [square(0, 0, 50)], array, 1.0, path=str(path))], LabelMap(["Tumor"]), size=99
    )
    image, mask = PatchDataset(table).raw(0)
    assert (mask[(image == 255).all(axis=2)] == 255).all()


def test_a_dataset_is_pickled_without_its_slides(two_colours):
    dataset = PatchDataset(two_colours)
    one = dataset[0, 0]
    other = pickle.loads(pickle.dumps(dataset))
    assert not other._open
    assert not other._cache
    assert np.array_equal(other[0, 0][0], one[0])


def test_the_plain_loader_gives_each_patch_once_in_order(two_colours):
    masks = np.concatenate([m.numpy() for _, m in plain_loader(two_colours, batch_size=5)])
    dataset = PatchDataset(two_colours)
    assert len(masks) == len(two_colours)
    assert all(np.array_equal(masks[i], dataset.raw(i)[1]) for i in (0, 7, 23))


class TestTrainLoader:
    def batches(self, table, **more):
        arguments = {"batch_size": 5, "seed": 0, "balanced": False, "workers": 0} | more
        return list(train_loader(table, Augmentation(64, "none"), **arguments))

    def test_the_last_incomplete_batch_is_dropped(self, two_colours):
        assert len(two_colours) == 24
        assert [len(i) for i, _ in self.batches(two_colours)] == [5, 5, 5, 5]

    def test_unless_it_is_the_only_one(self, two_colours):
        assert [len(i) for i, _ in self.batches(two_colours.take([0, 1, 2]))] == [3]

    @pytest.mark.slow
    def test_workers_change_nothing(self, two_colours):
        table = replace(two_colours, rows=two_colours.rows.iloc[:10].reset_index(drop=True))
        alone, helped = self.batches(table), self.batches(table, workers=2)
        for (a, m), (b, n) in zip(alone, helped, strict=True):
            assert np.array_equal(a, b)
            assert np.array_equal(m, n)


def test_lightning_moves_the_sampler_on_each_epoch(two_colours):
    """A new order and new augmentations each epoch hang on Lightning's call of `set_epoch`."""
    import lightning.pytorch as pl
    import torch

    loader = train_loader(two_colours, Augmentation(64, "none"), batch_size=8, seed=0, balanced=False, workers=0)
    epochs = []

    class Watch(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.p = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch, _):
            epochs.append(loader.batch_sampler.epoch)
            return self.p.sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(max_epochs=3, accelerator="cpu", enable_checkpointing=False, **quiet).fit(Watch(), loader)
    assert Counter(epochs) == {0: 3, 1: 3, 2: 3}


def test_scaled_decoding_is_the_slides(tmp_path):
    import tifffile

    array = np.kron(np.random.default_rng(0).integers(0, 255, (32, 32, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, tile=(64, 64), photometric="rgb", compression="jpeg", metadata=None)
    entry = FakeEntry("a", [square(0, 0, 256)], array, 0.5, path=str(tmp_path / "a.tif"))
    table = sample_patches([entry], LabelMap(["Tumor"]), size=32, mpp=1.0, per_class=4)
    for scaled in (False, True):
        dataset = PatchDataset(table, reading=Reading(scaled_decode=scaled))
        with open_slide(tmp_path / "a.tif", mpp=0.5, scaled_decode=scaled) as slide:
            for row in range(4):
                assert np.array_equal(dataset.raw(row)[0], slide.read(table.box(row), (32, 32)))
    assert not np.array_equal(dataset.raw(0)[0], PatchDataset(table).raw(0)[0])


@pytest.mark.parametrize("stain", ["macenko", "reinhard"])
def test_stain_normalisation_is_that_of_the_whole_slide(tmp_path, stain):
    array = stained(FIRST_LAB)
    entry = FakeEntry("a", [square(0, 0, 256)], array, 1.0, path=str(write_png(tmp_path / "a.png", array)))
    table = sample_patches([entry], LabelMap(["Tumor"]), size=32, mpp=1.0, per_class=4)
    dataset = PatchDataset(table, reading=Reading(stain=stain))
    recoloured = NormalisedSlide(ArraySlide(array, mpp=1.0), stain)
    for row in range(4):
        assert np.array_equal(dataset.raw(row)[0], recoloured.read(table.box(row), (32, 32)))
    assert not np.array_equal(dataset.raw(0)[0], PatchDataset(table).raw(0)[0])
