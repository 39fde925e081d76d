import numpy as np
import official
import pytest
from PIL import Image

from tcm_bench.data.datasets.omniglot import omniglot, omniglot_files


@pytest.fixture
def root(tmp_path):
    return official.omniglot_folder(tmp_path, stray=True)


def test_alphabets_are_split_as_the_authors_did(root):
    splits = omniglot_files(root, subset=True)
    assert splits.train.class_names == [f"Greek_{a}/character0{c}" for a in (0, 1) for c in (1, 2)]
    assert splits.test.class_names == [f"Tengwar_{a}/character0{c}" for a in (0, 1) for c in (3, 4)]
    assert np.bincount(splits.train.labels).tolist() == np.bincount(splits.test.labels).tolist() == [4, 4, 4, 5]


def test_images_are_shrunk_by_the_mean_of_the_pixels_covered(root):
    files, memory = omniglot_files(root, subset=True), omniglot(root, subset=True)
    for table, shrunk in ((files.train, memory.train), (files.test, memory.test)):
        assert shrunk.labels.tolist() == table.labels.tolist()
        assert shrunk.images.shape == (17, 35, 35)
        for row in range(17):
            published = np.asarray(table.image(row).convert("L"), dtype=float)
            mean = published.reshape(35, 3, 35, 3).mean(axis=(1, 3))
            assert np.abs(shrunk.images[row] - mean).max() <= 0.5


def test_in_training_a_turned_character_is_another_class(root):
    plain, turned = omniglot(root, subset=True), omniglot(root, rotations=True, subset=True)
    assert turned.train.num_classes == 16
    first, second, *_ = plain.train.class_names
    assert turned.train.class_names[:5] == [first, f"{first} 90", f"{first} 180", f"{first} 270", second]
    for row, label in enumerate(turned.train.labels.tolist()):
        character, turn = divmod(label, 4)
        assert plain.train.labels[row % 17] == character
        assert (turned.train.images[row] == np.rot90(plain.train.images[row % 17], turn)).all()
    assert (turned.test.images == plain.test.images).all()
    assert len({plain.fingerprint, turned.fingerprint, omniglot(root, side_px=28, subset=True).fingerprint}) == 3


@pytest.mark.parametrize("side_px", [0, 106])
def test_no_image_is_enlarged(root, side_px):
    with pytest.raises(ValueError, match=f"side_px must be from 1 to 105, got {side_px}"):
        omniglot(root, side_px=side_px, subset=True)


def test_other_images_are_refused(root):
    Image.new("L", (105, 90)).save(root / "images_evaluation" / "Tengwar_0" / "character03" / "0005_01.png")
    with pytest.raises(ValueError, match=r"0005_01\.png has 105 x 90 pixels: Omniglot's are square"):
        omniglot(root, subset=True)
    with pytest.raises(ValueError, match=r"found 4 train classes .* where Omniglot has 964"):
        omniglot(root)


def test_without_its_folders_the_sentence_says_how_to_get_them(tmp_path):
    with pytest.raises(ValueError, match="tcm-bench data prepare omniglot"):
        omniglot(tmp_path)
