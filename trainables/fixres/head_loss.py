"""The loss of many classifiers at once: cross-entropy with label smoothing and class weights.

Of an image of class y among C, where a setting has smoothing e and weights w, it is that of
torch.nn.CrossEntropyLoss:

    L = (1 - e) w_y (-log p_y) + e / C sum_c w_c (-log p_c)

A batch's loss is the sum over its images i, divided by sum_i w_y(i). By the logit of class k,

    dL / dz_k = ((1 - e) w_y + e / C sum_c w_c) p_k - (1 - e) w_y [k = y] - e / C w_k
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from trainables.fixres.head_settings import HeadSetting
from trainables.training.class_balance import class_weights
from trainables.training.recipe import ClassWeights

WeightsByKind = Mapping[ClassWeights, torch.Tensor | None]


def weights_by_kind(
    labels: torch.Tensor, classes: int, kinds: Iterable[ClassWeights]
) -> WeightsByKind:
    """Compute the weights of classes of each kind: (C,) float32 on the labels' device.

    Args:
        labels: (N,) int64, of the train images.
        classes: C, their number.

    Returns:
        None for "none".
    """
    found = {kind: class_weights(labels.cpu().numpy(), classes, kind) for kind in kinds}
    return {
        kind: None if w is None else torch.tensor(w, dtype=torch.float32, device=labels.device)
        for kind, w in found.items()
    }


class BatchedLoss:
    """The losses of classifiers that are fitted together, one for each setting."""

    def __init__(
        self, settings: Sequence[HeadSetting], weights: WeightsByKind, start: torch.Tensor
    ):
        """Take smoothing and weights of each setting.

        Args:
            weights: of each kind that settings have.
            start: (C,) float32, any tensor of as many classes, on the device.
        """
        self._classes = len(start)
        self._smoothing = start.new_tensor([s.label_smoothing for s in settings])[:, None, None]
        # (settings, C, 1); None, the plain formula, where no setting has any.
        self._weights: torch.Tensor | None = None
        if any(weights[s.class_weights] is not None for s in settings):
            found = [weights[s.class_weights] for s in settings]
            rows = [torch.ones_like(start) if w is None else w for w in found]
            self._weights = torch.stack(rows)[:, :, None]

    def to_gradient(self, p: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor) -> None:
        """Turn probabilities into the loss's gradient by the logits, times ``scale``, in place.

        Args:
            p: (settings, C, B) float32.
            labels: (B,) int64.
            scale: (settings, 1, 1).
        """
        smoothing = self._smoothing
        if self._weights is None:
            scale = scale / len(labels)
            of_p, at_label = scale, (scale * (smoothing - 1)).expand(-1, 1, len(labels))
            everywhere = scale * smoothing / -self._classes
        else:
            own = self._weights[:, labels].mT  # (settings, 1, B)
            scale = scale / own.sum(dim=2, keepdim=True)
            share, total = smoothing / self._classes, self._weights.sum(dim=1, keepdim=True)
            of_p = scale * torch.addcmul(share * total, 1 - smoothing, own)
            at_label = scale * (smoothing - 1) * own
            everywhere = -scale * share * self._weights
        torch.addcmul(everywhere, p, of_p, out=p)
        p.scatter_add_(1, labels.expand_as(at_label), at_label)
