import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from tcm_bench.data.transforms import augmentation, preprocessing

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
LEVEL = 1 / 255


def picture(width, height, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(50, 37), (37, 50), (20, 90)])
@pytest.mark.parametrize(
    ("interpolation", "mode"),
    [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)],
)
def test_preprocessing_is_pils_resize_and_center_crop(size, interpolation, mode):
    image = picture(*size)
    short = min(size)
    resized = image.resize((int(size[0] * 32 / short), int(size[1] * 32 / short)), mode)
    left, top = round((resized.width - 28) / 2), round((resized.height - 28) / 2)
    expected = np.asarray(resized.crop((left, top, left + 28, top + 28)), dtype=np.float64) / 255
    expected = (expected - IMAGENET["mean"]) / IMAGENET["std"]
    result = preprocessing(28, **IMAGENET, resize_px=32, interpolation=interpolation)(image)
    assert type(result) is torch.Tensor
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.permute(1, 2, 0), expected, rtol=0, atol=1.01 * LEVEL / 0.224)


def test_a_square_image_of_the_right_size_is_untouched():
    image = picture(24, 24)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for same in (image, pixels):
        result = preprocessing(24, **PLAIN)(same)
        torch.testing.assert_close(result, pixels / 255, rtol=0, atol=1e-6)


def test_augmentation_crops_a_part_and_mirrors_half_of_the_images():
    image = picture(40, 30)
    whole = augmentation(24, **PLAIN, scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3))
    still = augmentation(24, **PLAIN, scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3), flip=False)
    torch.manual_seed(0)
    expected = still(image)
    assert all(torch.equal(still(image), expected) for _ in range(20))

    def is_close(result, other):
        return bool(((result - other).abs() < 1.01 * LEVEL).all())

    results = [whole(image) for _ in range(200)]
    straight = sum(is_close(result, expected) for result in results)
    mirrored = sum(is_close(result, expected.flip(-1)) for result in results)
    assert straight + mirrored == 200
    assert 70 < mirrored < 130

    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (200, 1))).convert("RGB")
    crop = augmentation(24, **PLAIN, scale=(0.04, 0.16), ratio=(1.0, 1.0), flip=False)
    widths = [float(result.max() - result.min()) * 255 / 200 for result in (crop(ramp) for _ in range(100))]
    assert 0.15 < min(widths) < 0.25  # sides of 0.2 to 0.4 of the image
    assert 0.35 < max(widths) < 0.42


def test_identity_holds_every_setting_in_plain_types():
    settings = {
        "size_px": 24,
        "interpolation": "bicubic",
        "scale": [0.5, 1.0],
        "ratio": [1.0, 1.0],
        **IMAGENET,
    }
    transform = augmentation(**settings, flip=False)
    assert transform.identity == {
        "name": "augmentation",
        **settings,
        "mean": list(IMAGENET["mean"]),
        "std": list(IMAGENET["std"]),
        "flip": False,
    }
    assert json.loads(json.dumps(transform.identity)) == transform.identity
    assert augmentation(**OmegaConf.create(settings), flip=False).identity == transform.identity
    assert repr(preprocessing(24, **PLAIN)) == (
        "preprocessing(size_px=24, resize_px=24, mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0], interpolation='bilinear')"
    )


def test_identity_differs_with_every_setting():
    base = {"size_px": 24, "resize_px": 24, **PLAIN}
    others = [
        {"resize_px": 28},
        {"size_px": 20},
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.5, 0.5, 0.5)},
        {"interpolation": "bicubic"},
    ]
    reprs = {repr(preprocessing(**{**base, **other})) for other in [{}, *others]}
    assert len(reprs) == 6


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (preprocessing, {"resize_px": 20}, "resize_px must be at least size_px = 24, got 20"),
        (preprocessing, {"mean": (0.5,)}, "three values each"),
        (augmentation, {"std": (1.0, 0.0, 1.0)}, "std above 0"),
        (augmentation, {"interpolation": "cubic"}, "one of nearest, bilinear, bicubic, got 'cubic'"),
        (augmentation, {"scale": (0.5, 0.2)}, r"scale must be .* increasing order, got \[0.5, 0.2\]"),
        (augmentation, {"scale": (0.5, 2.0)}, "at most 1"),
        (augmentation, {"ratio": (1.0,)}, "ratio must be two positive numbers"),
    ],
)
def test_settings_out_of_range_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**{"size_px": 24, **PLAIN, **settings})
