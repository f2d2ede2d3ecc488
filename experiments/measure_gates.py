"""Measure what attention maps change in networks that are not trained: does their gate reach the prediction?

The map goes from 0.5 everywhere to 0 everywhere ('uniform'), and to 0.5 in its left half only ('half'). The change of
the pre-logits is given relative to their norm, the mean over some images (as in timm_abn.explain.metrics.reliance, in a
third of the time). Weights are random, layer scales are set to 0.3 (timm begins with up to 1e-6), and the statistics of
batch norm are those of the images, which are noise of the spectrum of photos (1/f).

'half' should be 0.05 or more, and 0.03 where only a class token is read; the exit code is 1 if fewer than 95 % of the
names reach that.

Example:
    python experiments/measure_gates.py abn_resnet18 abn_vit_small_patch16_224 pvt_v2_b0
    python experiments/measure_gates.py --sample 63
"""

import argparse
import itertools
import math
import random
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import timm
import torch
import torch.nn as nn
from timm.models import get_model_input_config

import timm_abn  # noqa: F401  registers the models
from timm_abn.errors import one_line
from timm_abn.networks.choices import GATES
from timm_abn_cli.argument_types import positive, whole

LAYER_SCALE = 0.3
_LAYER_SCALE = re.compile(r'(^|\.)(gamma\w*|layer_scale\w*|ls\d?)(\.|$)')
ENOUGH, ENOUGH_OF_CLASS_TOKEN = 0.05, 0.03
SHARE = 0.95
MOST_PARAMETERS = 1e8  # of the random ones


def natural_noise(model: nn.Module, batch_size: int) -> torch.Tensor:
    """Return images of unit variance whose amplitudes fall with the frequency, as those of photos do."""
    channels, height, width = get_model_input_config(model)['input_size']
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.fft.rfft2(torch.randn(batch_size, channels, height, width, generator=generator))
    cycles = torch.fft.fftfreq(height)[:, None].mul(height).square() + torch.fft.rfftfreq(width).mul(width).square()
    images = torch.fft.irfft2(spectrum / cycles.sqrt().clamp(min=1), s=(height, width))
    images = (images - images.mean(dim=(2, 3), keepdim=True)) / images.std(dim=(2, 3), keepdim=True)
    return images + 0.5 * torch.randn(batch_size, channels, 1, 1, generator=generator)


@torch.no_grad()
def calibrate(model: nn.Module, images: torch.Tensor) -> None:
    """Set layer scales, and the statistics of batch norm to those of ``images``."""
    for name, parameter in model.named_parameters():
        if _LAYER_SCALE.search(name):
            parameter.fill_(LAYER_SCALE)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the statistics of one batch as they are
        norm.reset_running_stats()
        norm.train()
    if norms:
        model(images)
    model.eval()


@torch.no_grad()
def effects(model: Any, images: torch.Tensor) -> dict[str, float]:
    """Return the effects of maps that are 0 everywhere ('uniform'), and in their right half ('half')."""
    shape = model.layout.to_maps(model.extract(images)[0], images).shape
    flat = torch.full((shape[0], 1, *shape[2:]), 0.5)
    half = torch.cat([flat[..., : shape[3] // 2], torch.zeros_like(flat[..., shape[3] // 2 :])], dim=3)
    reference, *changed = (
        model.forward_head(model.forward_features(images, attention=attention), pre_logits=True).flatten(1)
        for attention in (flat, torch.zeros_like(flat), half)
    )
    changes = [((pooled - reference).norm(dim=1) / reference.norm(dim=1)).mean().item() for pooled in changed]
    return dict(zip(('uniform', 'half'), changes))


def measure(name: str, gate: str | None = None) -> dict[str, Any]:
    """Return what maps change in an ABN, or in one over a backbone, with a gate, or with that which is chosen."""
    torch.manual_seed(0)
    arguments = {} if name.startswith('abn_') else dict(backbone=name)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model: Any = timm.create_model(
            name if name.startswith('abn_') else 'abn', num_classes=10, gate=gate, **arguments
        )
    images = natural_noise(model.eval(), batch_size=2)
    calibrate(model, images)
    effect = effects(model, images)
    of_class_token = model.layout.num_prefix_tokens > 0 and model.global_pool == 'token'
    return dict(
        split=model.config.split,
        gate=model.config.gate,
        reads='class token' if of_class_token else 'places',
        **{replacement: f'{change:.4f}' for replacement, change in effect.items()},
        enough='yes' if effect['half'] >= (ENOUGH_OF_CLASS_TOKEN if of_class_token else ENOUGH) else 'no',
    )


def backbone_names(seed: int) -> Iterator[str]:
    """Yield timm's names of backbones that have not too many parameters, in a random order."""
    names = timm.list_models(exclude_filters=['abn', 'abn_*', 'attached', 'cam_*'])
    random.Random(seed).shuffle(names)
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            model = timm.create_model(name, device=torch.device('meta'))
        if sum(parameter.numel() for parameter in model.parameters()) <= MOST_PARAMETERS:
            yield name


def measured(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names that can be cut, each with what maps change there."""
    for name in backbone_names(args.seed) if args.sample else args.names:
        try:
            yield name, measure(name, args.gate)
        except Exception as error:  # what cannot be cut, and what timm cannot build
            print(f'{name}: {one_line(error)}', flush=True)


def wilson_interval(successes: int, number: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927, https://doi.org/10.1080/01621459.1927.10502953)."""
    z = 1.959964
    share = successes / number
    centre = share + z**2 / (2 * number)
    spread = z * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    low, high = ((centre + side * spread) / (1 + z**2 / number) for side in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def main() -> int:
    """Print a line per name, then how many reach the goal, and return the exit code."""
    args = parse_args()
    number = reached = 0
    for name, found in itertools.islice(measured(args), args.sample):
        print(name, *(f'{column}={value}' for column, value in found.items()), flush=True)
        number, reached = number + 1, reached + (found['enough'] == 'yes')
    if not number:
        print('none of the names can be cut', file=sys.stderr)
        return 2
    low, high = wilson_interval(reached, number)
    print(f'{reached} of {number} names reach the goal: {reached / number:.3f} [{low:.3f}, {high:.3f}]')
    return 0 if reached >= SHARE * number else 1


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument('names', nargs='*', default=[], help="names of ABNs, or of timm's backbones")
    which.add_argument('--sample', type=positive, metavar='N', help="N random backbones of timm's that can be cut")
    parser.add_argument('--seed', type=whole, default=0, help='of --sample (default: %(default)s)')
    parser.add_argument('--gate', choices=GATES, help='default: that which is chosen for each')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
