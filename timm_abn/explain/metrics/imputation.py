"""Noisy linear imputation: a removed pixel is the weighted mean of its neighbours, which may be removed, too.

Rong, Leemann, Borisov, Kasneci, Kasneci, "A Consistent and Efficient Evaluation Strategy for Attribution Methods"
(ROAD), ICML 2022, arXiv 2202.00449, section 5: direct neighbours weigh 1/6, diagonal ones 1/12, at a border those that
exist; then comes a little noise. Of a mask there is less to be seen in such an image than in one with a fixed colour.

The linear system, one unknown for each removed pixel, is symmetric and positive definite as long as a pixel is left. It
is solved by conjugate gradients; a cycle through coarser and coarser grids precedes each step (Trottenberg, Oosterlee,
Schüller, "Multigrid", 2001, section 7.8), so that about ten steps do for a hole of any
size, and up to forty where single pixels are left here and there.
"""

import torch
import torch.nn.functional as F

__all__ = ['impute_linearly']

NOISE = 0.01  # that of the authors' code, in units of the normalised input
TOLERANCE = 1e-4  # of the largest value that is left
MOST_ITERATIONS = 100
DAMPING = 0.8  # of Jacobi's method, on each grid
PULL = 10.0  # of known pixels on a coarse cell that holds some; by trial: of 1, scattered pixels take 60 steps


@torch.no_grad()
def impute_linearly(images: torch.Tensor, removed: torch.Tensor) -> torch.Tensor:
    """Return images whose removed pixels are interpolated from those that are left, plus noise; zeros if none is.

    The noise is the same for all images, so that an image has the same numbers in any batch.

    Args:
        images: Normalised, shape (B, C, H, W).
        removed: Which pixels are, bool, shape (B, 1, H, W).
    """
    dtype = images.dtype if images.dtype == torch.float64 else torch.float32
    known = images.to(dtype).masked_fill(removed, 0)
    filled = known + _solve(_Grid(removed.to(dtype)), known)
    noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0)) * NOISE
    return torch.where(removed, filled + noise.to(filled), known).to(images.dtype)


def _solve(grid: '_Grid', known: torch.Tensor) -> torch.Tensor:
    """Return removed pixels, zeros elsewhere. An image that is solved stays as it is, however long others take."""
    enough = TOLERANCE * known.abs().amax(dim=(1, 2, 3), keepdim=True)
    residual = _sum_of_neighbours(known) * grid.unknown
    solution, ahead = torch.zeros_like(known), grid.cycle(residual)
    direction, product = ahead, _dot(residual, ahead)
    for _ in range(MOST_ITERATIONS):
        is_open = ahead.abs().amax(dim=(1, 2, 3), keepdim=True) > enough
        if not bool(is_open.any()):
            break
        applied = grid.apply(direction)
        length = torch.where(is_open, product / _dot(direction, applied), 0)
        solution = solution + length * direction
        residual = residual - length * applied
        ahead = torch.where(is_open, grid.cycle(residual), 0)
        before, product = product, _dot(residual, ahead)
        direction = torch.where(is_open, ahead + product / before * direction, 0)
    return solution


class _Grid:
    """The linear system on one grid, and on the next coarser one, whose cells are 2 x 2 of its own."""

    def __init__(self, removed: torch.Tensor) -> None:
        """Take the share of each cell that is removed, (B, 1, H, W)."""
        self.unknown = (removed > 0).to(removed.dtype)
        self.diagonal = _sum_of_neighbours(torch.ones_like(removed[:1])) + PULL * (1 - removed) * self.unknown
        self.damped = DAMPING * self.unknown / self.diagonal
        is_coarsest = max(removed.shape[2:]) <= 4
        self.coarser = None if is_coarsest else _Grid(F.avg_pool2d(removed, 2, ceil_mode=True))

    def apply(self, values: torch.Tensor) -> torch.Tensor:
        return (self.diagonal * values - _sum_of_neighbours(values)).mul_(self.unknown)

    def cycle(self, residual: torch.Tensor) -> torch.Tensor:
        """Return about the solution of the system for this right side; linear in it, and symmetric."""
        values = self.damped * residual
        if self.coarser is not None:
            left = F.avg_pool2d(residual - self.apply(values), 2, ceil_mode=True, divisor_override=1)
            coarse = F.interpolate(self.coarser.cycle(left), scale_factor=2.0)
            height, width = values.shape[2:]
            values = values + coarse[..., :height, :width] * self.unknown
        return values + self.damped * (residual - self.apply(values))


def _sum_of_neighbours(values: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of the 8 neighbours of each pixel: rows, then columns, by 1, 2, 1, without itself."""
    padded = F.pad(values, (1, 1, 1, 1))
    rows = (padded[..., :-2, :] + padded[..., 2:, :]).add_(padded[..., 1:-1, :], alpha=2)
    return (rows[..., :-2] + rows[..., 2:]).add_(rows[..., 1:-1], alpha=2).sub_(values, alpha=4).div_(12)


def _dot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one * other).sum(dim=(1, 2, 3), keepdim=True)
