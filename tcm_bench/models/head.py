"""The trained end of an embedder: from backbone features to unit-norm embeddings."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize


class Head(nn.Module):
    """Optional LayerNorm, Linear, L2 norm, of vectors from an origin, in a unit: 0 and 1 unless `center` sets them.

    Args:
        in_features: Length of the backbone's vectors.
        embedding_dim: Length of the embeddings.
        layer_norm: Normalize the vectors first (RS@k's recipe) or not (Smooth-AP's).
    """

    origin: Tensor
    unit: Tensor

    def __init__(self, in_features: int, embedding_dim: int = 512, *, layer_norm: bool = False) -> None:
        super().__init__()
        if in_features < 1 or embedding_dim < 1:
            raise ValueError(f"in_features and embedding_dim must be at least 1, got {in_features} and {embedding_dim}")
        self.register_buffer("origin", torch.zeros(in_features))
        self.register_buffer("unit", torch.ones(()))
        self.norm = nn.LayerNorm(in_features) if layer_norm else nn.Identity()
        self.linear = nn.Linear(in_features, embedding_dim)

    @torch.no_grad()
    def center(self, features: Float[Tensor, "items features"]) -> None:
        """Take the mean of these vectors for the origin of all that follow, their mean distance from it for the unit.

        The features of a frozen backbone share a large common part: all cosines are near 1, and along it one step of
        the optimizer moves every embedding alike. A margin loss may then pull everything into one point, where all
        its positive pairs are within the margin. In units of their own size, what the linear map adds to every vector
        (its bias) weighs as much as what it makes of one, whatever the backbone: an untypical vector, which lies close
        to the origin, is drawn towards what all have in common, and its cosines with all others are alike.

        Args:
            features: Vectors the head will be trained on, all or a sample of them.
        """
        self.origin.copy_(features.double().mean(dim=0))
        distance = (features.double() - self.origin.double()).norm(dim=1).mean()
        self.unit.copy_(distance.where(distance > 0, 1.0))

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch dim"]:
        """Unit-norm rows, float32 also under autocast: near 1, bfloat16 cosines are 0.004 apart."""
        embeddings = self.linear(self.norm((features - self.origin) / self.unit))
        return normalize(embeddings if embeddings.element_size() >= 4 else embeddings.float(), dim=1)
