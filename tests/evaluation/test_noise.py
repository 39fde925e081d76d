"""What is taken for noise is noise: against simulated classes whose true curves are known, and against split halves."""

import pytest
import torch

from tcm_bench.evaluation import noise
from tcm_bench.evaluation.evaluate import evaluate
from tcm_bench.evaluation.threshold import operating_curves, opis, utility
from tcm_bench.unit_norm import unit_norm

DIM, POINTS, LOOKS = 16, 21, 2000
SETTINGS = {"ks": (), "num_thresholds": POINTS, "further_far_bounds": ()}


class Population:
    """Classes of unequal compactness, of which any number of images can be drawn."""

    def __init__(self, seed, width, classes):
        self.classes = classes
        self.generator = torch.Generator().manual_seed(seed)
        self.centers = unit_norm(self._normal(self.classes, DIM))
        self.widths = width * (0.35 * self._normal(self.classes)).exp()
        # Independent looks at each class: pairs that share no image.
        one, two = (self.draw(LOOKS)[0].view(self.classes, LOOKS, DIM) for _ in range(2))
        shift = torch.arange(LOOKS) % (self.classes - 1) + 1
        other = torch.stack([two[(c + shift) % self.classes, torch.arange(LOOKS)] for c in range(self.classes)])
        self.inside, self.outside = ((one - rest).norm(dim=2).sort(dim=1).values for rest in (two, other))

    def _normal(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def draw(self, images):
        """Unit rows and labels; images differ in how typical they are, too."""
        scale = self.widths[:, None, None] * (0.3 * self._normal(self.classes, images, 1)).exp()
        x = self.centers[:, None] + scale * self._normal(self.classes, images, DIM)
        return unit_norm(x.flatten(0, 1)), torch.arange(self.classes).repeat_interleave(images)

    def true_opis(self, thresholds):
        """OPIS of the classes themselves at given thresholds."""
        sensitivity, accepted = (
            torch.searchsorted(distances, thresholds.expand(self.classes, -1).contiguous(), right=True) / LOOKS
            for distances in (self.inside, self.outside)
        )
        return float(opis(utility(sensitivity.double(), 1 - accepted.double()), thresholds))


def simulated(images, width, populations, draws, classes):
    """Sums over simulations of the plain, the corrected and the true OPIS."""
    sums = torch.zeros(3, dtype=torch.float64)
    for seed in range(populations):
        population = Population(seed, width, classes)
        for _ in range(draws):
            found = evaluate(*population.draw(images), **SETTINGS).consistency
            true = population.true_opis(found.thresholds)
            sums += torch.tensor([found.opis, found.opis_corrected, true], dtype=torch.float64)
    return sums.tolist()


@pytest.mark.parametrize(
    ("images", "width", "simulations", "classes"),  # 0.16: most classes are whole at the thresholds; 0.25: few
    [(5, 0.16, (6, 5), 200), (20, 0.25, (5, 5), 100), (60, 0.16, (3, 2), 40), (60, 0.25, (3, 2), 40)],
)
def test_corrected_opis_recovers_the_truth(images, width, simulations, classes):
    """In the mean; the plain one is up to twice too large. `tests/benchmarks/noise.py` takes 100 of each."""
    plain, corrected, true = simulated(images, width, *simulations, classes)
    assert corrected / true == pytest.approx(1, abs=0.05)
    assert plain / true > (1.5 if images == 5 else 1.0)


def test_split_halves_say_the_same():
    """The covariance of the utilities of two halves of each class, the field's usual way, where it is right: at 40."""
    population, by_halves, corrected = Population(0, 0.25, 60), 0.0, 0.0
    for _ in range(10):
        x, y = population.draw(40)
        found = evaluate(x, y, **SETTINGS).consistency
        first = torch.arange(len(y)) % 2 == 0
        curves = [operating_curves(torch.cat([x[half], x[:0]]), y[half], found.thresholds) for half in (first, ~first)]
        one, two = (utility(curve.sensitivity, curve.specificity) for curve in curves)
        covariance = ((one - one.mean(dim=0)) * (two - two.mean(dim=0))).mean(dim=0)
        by_halves += float(torch.trapezoid(covariance, found.thresholds) / (found.thresholds[-1] - found.thresholds[0]))
        corrected += found.opis_corrected
    assert corrected / by_halves == pytest.approx(1, abs=0.03)


def test_the_noise_of_a_sensitivity_is_the_variance_of_many_draws():
    population = Population(1, 0.25, 60)
    threshold = torch.tensor([0.9], dtype=torch.float64)
    values, estimates, outside = [], [], []
    for _ in range(300):
        curves = operating_curves(*population.draw(6), threshold)
        counts = curves.counts
        values.append(curves.sensitivity)
        estimates.append(noise.sensitivity_noise(curves.sensitivity, counts.disjoint, counts.accepted_disjoint))
        outside.append(noise.specificity_noise(counts.negatives, counts.accepted_negatives))
    spread = torch.stack(values).var(dim=0).mean()
    assert float(torch.stack(estimates).mean() / spread) == pytest.approx(1, abs=0.05)
    assert float(torch.stack(outside).mean()) > 0


def test_no_spread_but_noise_is_no_spread():
    x = unit_norm(torch.randn(400, 8, generator=torch.Generator().manual_seed(0)))
    found = evaluate(x, torch.arange(100).repeat_interleave(4), **SETTINGS).consistency
    assert found.opis > 5e-3
    assert 0 <= found.opis_corrected < 0.2 * found.opis


def test_a_class_of_fewer_than_four_images_is_left_out_of_the_correction_and_counted():
    population = Population(2, 0.2, 60)
    x, y = population.draw(6)
    few = (y >= 10) | (torch.arange(len(y)) % 6 < 3)  # three images of the first ten classes
    found = evaluate(x[few], y[few], **SETTINGS)
    assert found.consistency.noise_unknown == found.counts()["noise_unknown"] == 10
    assert found.consistency.opis_corrected > 0
    three = evaluate(x[torch.arange(len(y)) % 6 < 3], y[torch.arange(len(y)) % 6 < 3], **SETTINGS).consistency
    assert three.opis > 0
    assert three.opis_corrected != three.opis_corrected  # NaN: nothing is known of the noise
    assert three.noise_unknown == 60
