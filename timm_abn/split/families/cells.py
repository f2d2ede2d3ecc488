"""Families of cells that read the outputs of the two cells before them: NASNet, PNASNet."""

from typing import Any

import torch
import torch.nn as nn
from timm.models.nasnet import NASNetALarge, ReductionCell0, ReductionCell1
from timm.models.pnasnet import PNASNet5Large

from ..adapter import Adapter, BackboneHalf
from ..features import Crossing, Features
from ..pass_through import is_passed

__all__ = ['ADAPTERS']

Pair = tuple[torch.Tensor, torch.Tensor]


class _Cells:
    """The output of the cell before the cut passes beside that of the cell before it."""

    run_cells: Any
    act: Any

    def forward_features(self, x: Crossing) -> Crossing:
        """Return features, shape (B, C, h, w), and those of the cell before; or the last cell's, activated."""
        if isinstance(x, Features):
            return self.act(self.run_cells(x.x, *x.side_inputs)[0])
        features, previous = self.run_cells(x, x)
        return Features(features, [previous])


class NASNetHalf(_Cells, BackboneHalf, NASNetALarge):
    """See ``_Cells``."""

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


class PNASNetHalf(_Cells, BackboneHalf, PNASNet5Large):
    """See ``_Cells``."""

    def run_cells(self, x: torch.Tensor, previous: torch.Tensor) -> Pair:
        """Return what ``NASNetHalf`` does."""
        for name in self.layer_names:
            cell = getattr(self, name)
            if not is_passed(cell):
                x, previous = cell(x) if name in ('conv_0', 'cell_stem_0') else cell(previous, x), x
        return x, previous


ADAPTERS: dict[type[nn.Module], Adapter] = {
    NASNetALarge: Adapter(NASNetHalf, NASNetHalf, split='cell_11'),
    PNASNet5Large: Adapter(PNASNetHalf, PNASNetHalf, split='cell_7'),
}
