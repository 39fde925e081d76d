"""Each way in which pairs are read; what a processor lacks is done by loops that add as its instruction does."""

from typing import ClassVar

import numpy as np

from tcm_bench.evaluation.counting import halves
from tcm_bench.evaluation.counting.kernels import CompiledKernel, HalvesKernel
from tcm_bench.evaluation.counting.tensor_kernel import TensorKernel


class LoopsKernel(HalvesKernel):
    """Products of halves without the instruction."""

    blocks: ClassVar = np.int32


KERNELS = [CompiledKernel, LoopsKernel, *[HalvesKernel] * halves.available(), TensorKernel]
