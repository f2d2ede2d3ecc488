"""Checks of images of another size than a model was built for."""

import torch
import torch.nn.functional as F

from .subjects import Subject


def set_input_size(subject: Subject) -> None:
    """The model equals one built for that size with the same weights."""
    size = (2 * subject.size, subject.size)
    model = subject.make()
    model.set_input_size(size, **{key: subject.arguments[key] for key in ('window_size',) if key in subject.arguments})
    expected = subject.make(**(dict(img_size=size) if subject.takes_size else {}))
    expected.load_state_dict(model.state_dict())
    images = subject.images(size=size)
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected(images))


def dynamic_img_size(subject: Subject) -> None:
    """Sides need not be multiples of a token's size; the result is that of padded images in a model of this size."""
    model = subject.make(dynamic_img_size=True, dynamic_img_pad=True)
    expected = subject.make()
    expected.set_input_size((80, 48))
    images = subject.images(size=(70, 41))
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected(F.pad(images, (0, 7, 0, 10))))
