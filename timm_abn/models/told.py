"""What the caller says about weights that do not record it: how images are prepared, and what outputs mean."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn as nn
from timm.models import get_model_input_config

from ..errors import TimmAbnError
from ..hub.config import check_entries
from ..records import Levels, Record, known_of, set_record

__all__ = ['Told']

_FLAGS = dict(img_size='--img-size', mean='--mean', std='--std', crop_pct='--crop-pct')


@dataclasses.dataclass(frozen=True)
class Told:
    """What a caller says; None for what is not said. It takes precedence over what weights record.

    Attributes:
        img_size: Height and width of images, or their side.
        mean: One value per channel, or one for all.
        std: See ``mean``.
        crop_pct: Share of an image's side that the model sees.
        probabilities: See ``timm_abn.records.Record``.
        levels: See there; two words, as on the command line.
        explained_by: See there.
    """

    img_size: int | Sequence[int] | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    crop_pct: float | None = None
    probabilities: str | None = None
    levels: Sequence[str] | None = None
    explained_by: str | None = None

    @classmethod
    def take(cls, arguments: Mapping[str, Any]) -> tuple['Told', dict[str, Any]]:
        """Return what is said among arguments of a model, and the others."""
        names = [field.name for field in dataclasses.fields(cls)]
        said = {name: value for name, value in arguments.items() if name in names}
        return cls(**said), {name: value for name, value in arguments.items() if name not in names}

    def build(self, create: Callable[[Mapping[str, Any]], nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
        """Return ``create(arguments)``, or a model that is built for images of this size, where its size is fixed.

        Raises:
            TimmAbnError: There is none for this size.
        """
        model: Any = create(arguments)
        if self.img_size is None:
            return model
        wanted = self.data_config(model)['input_size']
        model.pretrained_cfg = dict(model.pretrained_cfg, input_size=wanted)
        fits = get_model_input_config(model)['input_size'] == wanted
        return model if fits else create(dict(arguments, img_size=wanted[1:]))

    def note(self, model: nn.Module) -> None:
        """Note with a model what is said.

        Raises:
            TimmAbnError: It has no meaning for this model.
        """
        noted: Any = model
        if data_config := self.data_config(model):
            noted.pretrained_cfg = dict(noted.pretrained_cfg, **data_config)
        known = known_of(model)
        levels = Levels.parse(self.levels) if self.levels is not None else known.levels
        set_record(
            model, Record(self.probabilities or known.probabilities, levels, self.explained_by or known.explained_by)
        )

    def data_config(self, model: nn.Module) -> dict[str, Any]:
        """Return what is said of how images are prepared, as timm names it.

        Raises:
            TimmAbnError: It has no meaning for this model.
        """
        channels = get_model_input_config(model)['input_size'][0]
        said = {name: value for name in ('mean', 'std') if (value := getattr(self, name)) is not None}
        found: dict[str, Any] = {
            name: (value,) if isinstance(value, (int, float)) else tuple(value) for name, value in said.items()
        }
        for name, values in found.items():
            if len(values) not in (1, channels):
                raise TimmAbnError(f'{name} must be one number, or one for each of {channels} channels, got {values}.')
            found[name] = values * (channels // len(values))
        if self.img_size is not None:
            sides = (self.img_size,) * 2 if isinstance(self.img_size, int) else tuple(self.img_size)
            found['input_size'] = (channels, *sides)
        found.update({} if self.crop_pct is None else dict(crop_pct=self.crop_pct))
        check_entries(found, {}, 'what was given')
        return found

    def warn(self, model: nn.Module, settings: Mapping[str, Any], origin: object) -> None:
        """Warn once of how images are prepared where neither the caller nor the settings of a training say it."""
        said = {*settings, *(['img_size'] if 'input_size' in settings else [])}
        cfg: Any = model.pretrained_cfg
        height, width = get_model_input_config(model)['input_size'][1:]
        taken = dict(img_size=f'size {height} x {width}', mean=f'mean {cfg["mean"]}', std=f'std {cfg["std"]}')
        taken['crop_pct'] = f'crop {cfg["crop_pct"]}'
        unknown = [name for name in taken if name not in said and getattr(self, name) is None]
        if unknown:
            values, flags = (', '.join(of[name] for name in unknown) for of in (taken, _FLAGS))
            warnings.warn(
                f'{origin} does not record how images were prepared; assumed: {values}. If it was trained differently, '
                f'all numbers are wrong: set {flags} (in Python {", ".join(unknown)}).',
                stacklevel=4,
            )
