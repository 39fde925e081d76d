"""mAP@R and R-precision of a gathered set."""

from torch import Tensor

from tcm_bench.evaluation.gathered import EmbeddingMetric
from tcm_bench.evaluation.retrieval import precision_at_r


class PrecisionAtRMetric(EmbeddingMetric):
    """What the R nearest items hold; see :func:`tcm_bench.evaluation.retrieval.precision_at_r`."""

    higher_is_better = True

    def evaluate(
        self, embeddings: Tensor, labels: Tensor, query: Tensor | None = None, gallery: Tensor | None = None
    ) -> dict[str, Tensor]:
        """``map_at_r`` and ``r_precision``."""
        return precision_at_r(embeddings, labels, query=query, gallery=gallery)._asdict()
