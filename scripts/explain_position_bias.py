"""Find what makes an ABN look at the same places in all images: which zero padding tells it where a place is?

Example:
    python scripts/explain_position_bias.py --data-dir data

A network without padding would give a map without structure of a constant image, since all places are alike. Here the
zero padding of one part after the other is replaced by replication of the border, in copies of the network, and of each
copy is printed how much the maps of constant images vary over places, and how large the position bias is on real ones
(``timm_abn.explain.metrics.position_bias``). First the packaged model, then untrained networks of three seeds.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import timm
import torch
import torch.nn as nn

import timm_abn
from timm_abn.errors import TimmAbnError
from timm_abn.explain.metrics import position_bias
from timm_abn_cli.argument_types import positive
from timm_abn_cli.table import format_table

MODEL = 'abn_resnet20_cifar.fashion_mnist'
LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of constant images, in standard deviations of the data

PARTS: dict[str, tuple[str, ...]] = {
    'none': (),
    'map convolution': ('attention_branch.map_conv',),
    'attention stage': ('attention_branch.stage',),
    'feature extractor': ('feature_extractor',),
    'stage and extractor': ('attention_branch.stage', 'feature_extractor'),
    'all three': ('attention_branch', 'feature_extractor'),
}


def main() -> int:
    """Print the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', type=Path, default=Path('data'), help='folder that holds FashionMNIST/raw')
    parser.add_argument('--limit', type=positive, default=1000, help='test images (default: 1000)')
    args = parser.parse_args()
    model = timm_abn.load_model(MODEL)
    try:
        samples = timm_abn.load_samples(model, args.data_dir, 'torch/fashion_mnist', 'test', args.limit)
    except TimmAbnError as error:
        print(f'{Path(__file__).name}: error: {error}', file=sys.stderr)
        return 2
    images = torch.stack([sample.image for sample in samples])
    print(f'{MODEL}, {len(images)} test images\n{table([model], lambda copies: bias_of(copies[0], images))}\n')
    networks = []
    for seed in range(3):
        torch.manual_seed(seed)
        networks.append(timm.create_model('abn_resnet18', num_classes=10).eval())
    print(f'abn_resnet18, untrained, mean of three seeds\n{table(networks)}')
    return 0


def table(networks: list[nn.Module], bias: Callable[[list[nn.Module]], str] = lambda copies: '') -> str:
    """Return a row for each part whose padding is replaced."""
    rows = []
    for title, names in PARTS.items():
        copies = [replicated(network, names) for network in networks]
        spreads = torch.tensor([spread(network) for network in copies])
        rows.append((title, f'{spreads.mean():.4f}', bias(copies)))
    return format_table(('border replicated in', 'deviation over places, constant images', 'position bias'), rows)


def replicated(network: nn.Module, names: Iterable[str]) -> nn.Module:
    """Return a copy whose convolutions in the modules of these names pad by replication instead of zeros."""
    copied = copy.deepcopy(network)
    for name in names:
        for module in copied.get_submodule(name).modules():
            if isinstance(module, nn.Conv2d) and any(module.padding):
                module.padding_mode = 'replicate'
                height, width = module.padding
                # what torch derives from padding when a convolution is built
                module._reversed_padding_repeated_twice = [width, width, height, height]
    return copied


@torch.no_grad()
def spread(network: nn.Module) -> float:
    """Return the standard deviation over places of the maps of constant images, mean over the images."""
    channels, height, width = network.pretrained_cfg['input_size']
    images = torch.tensor(LEVELS)[:, None, None, None].expand(-1, channels, height, width).contiguous()
    return network.explain(images).attention_map.std(dim=(1, 2, 3)).mean().item()


def bias_of(network: nn.Module, images: torch.Tensor) -> str:
    """Return the position bias of the network's maps."""
    return f'{position_bias(torch.cat([network.explain(batch).attention_map for batch in images.split(250)])):.3f}'


if __name__ == '__main__':
    sys.exit(main())
