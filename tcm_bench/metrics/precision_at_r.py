"""mAP@R and R-precision of a gathered set."""

from torch import Tensor

from tcm_bench.functional.retrieval import precision_at_r
from tcm_bench.metrics.embedding_metric import EmbeddingMetric


class PrecisionAtR(EmbeddingMetric):
    """What the R nearest items hold; see :func:`tcm_bench.functional.retrieval.precision_at_r`."""

    higher_is_better = True

    def evaluate(
        self, embeddings: Tensor, labels: Tensor, query: Tensor | None = None, gallery: Tensor | None = None
    ) -> dict[str, Tensor]:
        """``map_at_r`` and ``r_precision``."""
        return precision_at_r(embeddings, labels, query=query, gallery=gallery)._asdict()
