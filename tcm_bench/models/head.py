"""The trained end of an embedder: from backbone features to unit-norm embeddings."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize


class Head(nn.Module):
    """Optional LayerNorm, Linear, L2 norm, of vectors relative to an origin that is 0 unless `center` sets it.

    Args:
        in_features: Length of the backbone's vectors.
        embedding_dim: Length of the embeddings.
        layer_norm: Normalize the vectors first (RS@k's recipe) or not (Smooth-AP's).
    """

    origin: Tensor

    def __init__(self, in_features: int, embedding_dim: int = 512, *, layer_norm: bool = False) -> None:
        super().__init__()
        if in_features < 1 or embedding_dim < 1:
            raise ValueError(f"in_features and embedding_dim must be at least 1, got {in_features} and {embedding_dim}")
        self.register_buffer("origin", torch.zeros(in_features))
        self.norm = nn.LayerNorm(in_features) if layer_norm else nn.Identity()
        self.linear = nn.Linear(in_features, embedding_dim)

    @torch.no_grad()
    def center(self, features: Float[Tensor, "items features"]) -> None:
        """Take the mean of these vectors for the origin of all that follow.

        The features of a frozen backbone share a large common part: all cosines are near 1, and along it one step of
        the optimizer moves every embedding alike. A margin loss may then pull everything into one point, where all
        its positive pairs are within the margin.

        Args:
            features: Vectors the head will be trained on, all or a sample of them.
        """
        self.origin.copy_(features.double().mean(dim=0))

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch dim"]:
        """Unit-norm rows, float32 also under autocast: near 1, bfloat16 cosines are 0.004 apart."""
        embeddings = self.linear(self.norm(features - self.origin))
        return normalize(embeddings if embeddings.element_size() >= 4 else embeddings.float(), dim=1)
