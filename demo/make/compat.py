"""Import this before transformers.

transformers imports torchvision when it is installed, for its image transforms. A torchvision whose compiled operators
do not match the installed torch (a CUDA wheel beside a CPU torch, say) fails on import, although the transforms need
none of these operators. Declaring the two that it looks up is enough.
"""

from __future__ import annotations

import torch

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def declare_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")
    for operator in OPERATORS:
        library.define(operator)
    return library


try:
    import torchvision
except ImportError:
    torchvision = None  # the processors then use Pillow
except RuntimeError:
    _operators = declare_operators()  # the declarations live as long as this object
    import torchvision
