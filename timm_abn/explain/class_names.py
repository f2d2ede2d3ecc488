"""What the classes of a model are called."""

from typing import Any, List

import torch.nn as nn
from timm.data import CustomDatasetInfo, ImageNetInfo, infer_imagenet_subset

__all__ = ['class_names']


def class_names(model: nn.Module) -> List[str]:
    """Return the names of a model's classes, or tasks, in their order.

    As in timm's scripts, names come with the model's configuration, else ImageNet's are taken where the number of
    classes is that of ImageNet; else names are numbers.

    Args:
        model: A timm model.
    """
    pretrained_cfg: Any = getattr(model, 'pretrained_cfg', {})
    num_classes: Any = model.num_classes
    label_names = pretrained_cfg.get('label_names')
    if label_names and len(label_names) == num_classes:
        return [CustomDatasetInfo(label_names).index_to_label_name(index) for index in range(num_classes)]
    subset = infer_imagenet_subset({'num_classes': num_classes})
    if subset and not label_names:
        info = ImageNetInfo(subset)
        return [info.index_to_description(index).split(',')[0] for index in range(num_classes)]
    return [f'class {index}' for index in range(num_classes)]
