import io
import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torchvision.transforms import v2

from tcm_bench.data.decode import Jpeg, Pixels
from tcm_bench.data.decode import picture as decoded
from tcm_bench.data.transforms import Augmentation, Box, Preprocessing

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
MODES = {
    "nearest": v2.InterpolationMode.NEAREST,
    "bilinear": v2.InterpolationMode.BILINEAR,
    "bicubic": v2.InterpolationMode.BICUBIC,
}


def photo(width, height, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def pixels(image):
    return Pixels(np.array(image))


def jpeg(image):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92)
    return decoded(stream.getvalue(), "x.jpg")


def network_input(transform, image):
    return transform.normalize(transform(image)[None])[0]


@pytest.mark.parametrize("size", [(50, 37), (37, 50), (20, 90)])
@pytest.mark.parametrize(
    ("interpolation", "mode"),
    [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)],
)
def test_preprocessing_is_pils_resize_and_center_crop(size, interpolation, mode):
    image = photo(*size)
    short = min(size)
    resized = image.resize((int(size[0] * 32 / short), int(size[1] * 32 / short)), mode)
    left, top = round((resized.width - 28) / 2), round((resized.height - 28) / 2)
    expected = np.asarray(resized.crop((left, top, left + 28, top + 28))).astype(int)
    result = Preprocessing(28, **IMAGENET, resize_px=32, interpolation=interpolation)(pixels(image))
    assert type(result) is torch.Tensor
    assert result.dtype == torch.uint8
    assert result.shape == (3, 28, 28)
    np.testing.assert_allclose(result.permute(1, 2, 0).int(), expected, rtol=0, atol=1)


@pytest.mark.parametrize("size", [(50, 37), (37, 50), (33, 33), (20, 90), (24, 24)])
@pytest.mark.parametrize("interpolation", list(MODES))
def test_both_chains_are_torchvisions_and_draw_as_it_does(size, interpolation):
    image = photo(*size)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    mode = MODES[interpolation]
    floats = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(**IMAGENET)]
    crop = v2.RandomResizedCrop(24, scale=(0.1, 0.9), interpolation=mode, antialias=True)
    theirs = v2.Compose([crop, v2.RandomHorizontalFlip(), *floats])
    ours = Augmentation(24, **IMAGENET, scale=(0.1, 0.9), interpolation=interpolation)
    for seed in range(12):
        torch.manual_seed(seed)
        expected = theirs(tensor)
        torch.manual_seed(seed)
        torch.testing.assert_close(network_input(ours, pixels(image)), expected, rtol=0, atol=1e-6)
    theirs = v2.Compose([v2.Resize([28], interpolation=mode, antialias=True), v2.CenterCrop(24), *floats])
    ours = Preprocessing(24, **IMAGENET, resize_px=28, interpolation=interpolation)
    torch.testing.assert_close(network_input(ours, pixels(image)), theirs(tensor), rtol=0, atol=1e-6)


def test_a_batch_is_normalized_channel_by_channel():
    images = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    result = Preprocessing(5, **IMAGENET).normalize(images.contiguous(memory_format=torch.channels_last))
    assert result.is_contiguous(memory_format=torch.channels_last)
    for channel in range(3):
        expected = (images[:, channel].double() / 255 - IMAGENET["mean"][channel]) / IMAGENET["std"][channel]
        torch.testing.assert_close(result[:, channel].double(), expected, rtol=0, atol=1e-6)


def test_a_square_image_of_the_right_size_is_untouched():
    image = photo(24, 24)
    result = Preprocessing(24, **PLAIN)(pixels(image))
    assert torch.equal(result, torch.from_numpy(np.array(image)).permute(2, 0, 1))


def test_augmentation_crops_a_part_and_mirrors_half_of_the_images():
    image = pixels(photo(40, 30))
    whole = Augmentation(24, **PLAIN, scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3))
    still = Augmentation(24, **PLAIN, scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3), flip=False)
    torch.manual_seed(0)
    expected = still(image)
    assert all(torch.equal(still(image), expected) for _ in range(20))

    results = [whole(image) for _ in range(200)]
    straight = sum(torch.equal(result, expected) for result in results)
    mirrored = sum(torch.equal(result, expected.flip(-1)) for result in results)
    assert straight + mirrored == 200
    assert 70 < mirrored < 130

    ramp = pixels(Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (200, 1))).convert("RGB"))
    crop = Augmentation(24, **PLAIN, scale=(0.04, 0.16), ratio=(1.0, 1.0), flip=False)
    widths = [float(result.max().int() - result.min().int()) / 200 for result in (crop(ramp) for _ in range(100))]
    assert 0.15 < min(widths) < 0.25  # sides of 0.2 to 0.4 of the image
    assert 0.35 < max(widths) < 0.42


def coordinates(width, height):
    """A JPEG whose red and green say where a pixel is, from 20 at one end to 230 at the other."""
    x, y = np.linspace(20, 230, width), np.linspace(20, 230, height)
    channels = np.broadcast_arrays(x, y[:, None], 128.0)
    stream = io.BytesIO()
    Image.fromarray(np.stack(channels, axis=2).round().astype(np.uint8)).save(stream, "JPEG", quality=98, subsampling=0)
    return decoded(stream.getvalue(), "x.jpg")


def twins(image, transform, **settings):
    """What the transform makes of an image with full and with scaled decoding, and the factor of the second."""
    factors = []

    class Watched(Jpeg):
        def pixels(self, factor=1):
            factors.append(factor)
            return super().pixels(factor)

    watched = Watched(image.data, image.name, image.height, image.width, image.is_turbo)
    results = []
    for scaled in (False, True):
        torch.manual_seed(settings["seed"])
        results.append(transform(scaled_decode=scaled)(watched).float())
    assert factors[0] == 1
    return *results, factors[1]


CHAINS = {
    "augmentation": lambda **settings: Augmentation(32, **PLAIN, scale=(0.02, 1.0), **settings),
    "preprocessing": lambda **settings: Preprocessing(32, **PLAIN, resize_px=36, **settings),
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("size", [(500, 375), (333, 501), (90, 71), (601, 75)])
def test_scaled_decoding_takes_the_same_part_to_a_fraction_of_a_pixel(chain, size):
    """Where the middle of the result lies in the image, and how long its sides are, read from a map of coordinates."""
    image = coordinates(*size)
    seen = set()
    for seed in range(30):
        full, scaled, factor = twins(image, CHAINS[chain], seed=seed)
        seen.add(factor)
        for channel, axis in ((0, 2), (1, 1)):
            step = abs(float((full[channel].select(axis - 1, 31) - full[channel].select(axis - 1, 0)).mean())) / 31
            for side in (slice(2, 8), slice(13, 19), slice(24, 30)):
                place = [float(result[channel].movedim(axis - 1, 0)[side].mean()) for result in (full, scaled)]
                assert abs(place[0] - place[1]) < 0.6 * step + 0.6  # half a pixel, and the rounding of levels
    assert max(seen) == max(f for f in (1, 2, 4, 8) if min(size) >= f * (32 if chain == "augmentation" else 36))
    assert len(seen) > 1 or chain == "preprocessing"


@pytest.mark.parametrize("chain", CHAINS)
def test_scaled_decoding_changes_levels_little_and_less_than_a_shift_by_one_pixel(chain):
    differences, shifts = [], []
    for number in range(3):
        image = jpeg(photo(500, 375, number))
        for seed in range(10):
            full, scaled, factor = twins(image, CHAINS[chain], seed=seed)
            if factor == 1:
                assert torch.equal(full, scaled)
                continue
            differences.append(float((full - scaled).abs().mean()))
            shifts.append(float((full - scaled.roll(1, dims=-1)).abs()[..., 1:].mean()))
    assert len(differences) > 20
    assert np.mean(differences) < 3
    assert np.mean(shifts) > 2 * np.mean(differences)


def test_an_image_is_never_decoded_below_the_size_that_is_needed():
    asked = []

    class Asked(Pixels):
        def pixels(self, factor=1):
            asked.append(factor)
            return self.array[::factor, ::factor]

    image = Asked(np.zeros((300, 400, 3), dtype=np.uint8), factors=(1, 2, 4, 8))
    whole = {"scale": (1.0, 1.0), "ratio": (4 / 3, 4 / 3)}
    for size in (37, 38, 75, 76, 150, 151, 300):
        Augmentation(size, **PLAIN, **whole, scaled_decode=True)(image)
        Preprocessing(size, **PLAIN, scaled_decode=True)(image)
        Preprocessing(size // 2, **PLAIN, resize_px=size, scaled_decode=True)(image)
    assert asked == [f for f in (8, 4, 4, 2, 2, 1, 1) for _ in range(3)]


def test_a_box_shrinks_to_the_nearest_pixels():
    assert Box(10, 21, 100, 50).shrunk(1) == (10, 21, 100, 50)
    assert Box(10, 21, 100, 50).shrunk(2) == (5, 10, 50, 26)
    assert Box(7, 9, 81, 64).shrunk(8) == (1, 1, 10, 8)


def test_shrinking_first_limits_the_shorter_side_and_leaves_small_images_alone():
    transform = Preprocessing(16, **PLAIN, shrink_px=20)
    large, small = jpeg(photo(90, 60)), jpeg(photo(40, 20))
    assert (transform.shrunk(large).height, transform.shrunk(large).width) == (20, 30)
    assert transform.shrunk(small) is small
    expected = np.asarray(Image.fromarray(large.pixels()).resize((30, 20), Image.Resampling.BILINEAR)).astype(int)
    np.testing.assert_allclose(transform.shrunk(large).pixels(), expected, rtol=0, atol=1)
    plain = Preprocessing(16, **PLAIN)
    assert torch.equal(transform(large), plain(transform.shrunk(large)))
    assert torch.equal(transform(small), plain(small))
    for seed in range(3):
        torch.manual_seed(seed)
        one = Augmentation(16, **PLAIN, shrink_px=20)(large)
        torch.manual_seed(seed)
        assert torch.equal(one, Augmentation(16, **PLAIN)(transform.shrunk(large)))


def test_identity_holds_every_setting_in_plain_types():
    settings = {
        "size_px": 24,
        "interpolation": "bicubic",
        "scale": [0.5, 1.0],
        "ratio": [1.0, 1.0],
        **IMAGENET,
    }
    transform = Augmentation(**settings, flip=False)
    assert transform.identity == {
        "name": "augmentation",
        **settings,
        "mean": list(IMAGENET["mean"]),
        "std": list(IMAGENET["std"]),
        "flip": False,
        "shrink_px": None,
        "scaled_decode": False,
    }
    assert json.loads(json.dumps(transform.identity)) == transform.identity
    assert Augmentation(**OmegaConf.create(settings), flip=False).identity == transform.identity
    assert repr(Preprocessing(24, **PLAIN)) == (
        "Preprocessing(size_px=24, resize_px=24, mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0], interpolation='bilinear', "
        "shrink_px=None, scaled_decode=False)"
    )


def test_identity_differs_with_every_setting():
    base = {"size_px": 24, "resize_px": 24, **PLAIN}
    others = [
        {"resize_px": 28},
        {"size_px": 20},
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.5, 0.5, 0.5)},
        {"interpolation": "bicubic"},
        {"shrink_px": 30},
        {"scaled_decode": True},
    ]
    reprs = {repr(Preprocessing(**{**base, **other})) for other in [{}, *others]}
    assert len(reprs) == 8


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (Preprocessing, {"resize_px": 20}, "resize_px must be at least size_px = 24, got 20"),
        (Preprocessing, {"resize_px": 28, "shrink_px": 27}, "shrink_px must be at least 28, .* got 27"),
        (Augmentation, {"shrink_px": 23}, "shrink_px must be at least 24"),
        (Preprocessing, {"mean": (0.5,)}, "three values each"),
        (Augmentation, {"std": (1.0, 0.0, 1.0)}, "std above 0"),
        (Augmentation, {"interpolation": "cubic"}, "one of nearest, bilinear, bicubic, got 'cubic'"),
        (Augmentation, {"scale": (0.5, 0.2)}, r"scale must be .* increasing order, got \[0.5, 0.2\]"),
        (Augmentation, {"scale": (0.5, 2.0)}, "at most 1"),
        (Augmentation, {"ratio": (1.0,)}, "ratio must be two positive numbers"),
    ],
)
def test_settings_out_of_range_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**{"size_px": 24, **PLAIN, **settings})
