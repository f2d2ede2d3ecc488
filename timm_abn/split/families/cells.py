"""Families of cells that read the outputs of the two cells before them: NASNet, PNASNet."""

from typing import Any

import torch
import torch.nn as nn
from timm.models.nasnet import NASNetALarge, ReductionCell0, ReductionCell1
from timm.models.pnasnet import PNASNet5Large

from ..adapter import Adapter, Half
from ..features import Features
from ..pass_through import is_passed

__all__ = ['ADAPTERS']

Pair = tuple[torch.Tensor, torch.Tensor]


class NASNetHalf(Half, NASNetALarge):
    """The output of the cell before the cut passes beside that of the cell before it."""

    def run_cells(self, x: torch.Tensor, previous: torch.Tensor) -> Pair:
        """Return the outputs of the last cell of this half, and of the one that the next reads with it."""
        for name in self.layer_names:
            cell = getattr(self, name)
            if is_passed(cell):
                continue
            if name in ('conv0', 'cell_stem_0'):
                x, previous = cell(x), x
            elif name == 'cell_stem_1':
                x, previous = cell(previous, x), x
            elif isinstance(cell, (ReductionCell0, ReductionCell1)):
                x = cell(x, previous)
            else:
                x, previous = cell(x, previous), x
        return x, previous


class PNASNetHalf(Half, PNASNet5Large):
    """See ``NASNetHalf``."""

    def run_cells(self, x: torch.Tensor, previous: torch.Tensor) -> Pair:
        """See ``NASNetHalf``."""
        for name in self.layer_names:
            cell = getattr(self, name)
            if not is_passed(cell):
                x, previous = cell(x) if name in ('conv_0', 'cell_stem_0') else cell(previous, x), x
        return x, previous


class _First:
    run_cells: Any

    def forward_features(self, x: torch.Tensor) -> Features:
        """Return features, shape (B, C, h, w), and those of the cell before."""
        features, previous = self.run_cells(x, x)
        return Features(features, [previous])


class _Second:
    run_cells: Any
    act: Any

    def forward_features(self, x: Features) -> torch.Tensor:
        """Return the output of the last cell, activated."""
        return self.act(self.run_cells(x.x, *x.side_inputs)[0])


class NASNetExtractor(_First, NASNetHalf):
    """The cells of NASNet up to the cut."""


class NASNetPerception(_Second, NASNetHalf):
    """The cells of NASNet after the cut."""


class PNASNetExtractor(_First, PNASNetHalf):
    """The cells of PNASNet up to the cut."""


class PNASNetPerception(_Second, PNASNetHalf):
    """The cells of PNASNet after the cut."""


ADAPTERS: dict[type[nn.Module], Adapter] = {
    NASNetALarge: Adapter(NASNetExtractor, NASNetPerception, split='cell_11'),
    PNASNet5Large: Adapter(PNASNetExtractor, PNASNetPerception, split='cell_7'),
}
