"""Results of the models, kept by hand: what others report, apart from what was measured with this code."""

import dataclasses
from typing import Dict, Tuple

__all__ = ['COMPARISONS', 'MEASURED_RESULTS', 'REPORTED_RESULTS', 'Comparison', 'MeasuredResult', 'ReportedResult']


@dataclasses.dataclass(frozen=True)
class ReportedResult:
    """A number that somebody else reports.

    Attributes:
        dataset: What was classified.
        metric: 'top-1 error' or 'top-1 accuracy'.
        percent: The number.
        source: Where it stands.
        variant: How the model differs from the one of this name, if it does.
    """

    dataset: str
    metric: str
    percent: float
    source: str
    variant: str = ''


@dataclasses.dataclass(frozen=True)
class MeasuredResult:
    """A number that was measured with this code.

    Attributes:
        dataset: What was classified.
        metric: 'top-1 accuracy'.
        percent: The number.
        command: How to measure it again.
    """

    dataset: str
    metric: str
    percent: float
    command: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Models that were trained side by side with this code.

    Attributes:
        title: What was compared.
        setup: What they have in common.
        command: How to measure it again.
        header: Names of the columns.
        rows: A model each, in words.
    """

    title: str
    setup: str
    command: str
    header: Tuple[str, ...]
    rows: Tuple[Tuple[str, ...], ...]


MEASURED_RESULTS: Dict[str, Tuple[MeasuredResult, ...]] = {
    'abn_resnet20_cifar.fashion_mnist': (
        MeasuredResult(
            'Fashion-MNIST, 10,000 test images',
            'top-1 accuracy',
            93.79,
            'python scripts/evaluate_fashion_mnist.py --data-dir data --download',
        ),
    ),
}

COMPARISONS: Tuple[Comparison, ...] = (
    Comparison(
        title='ResNet-20 with and without ABN, on Fashion-MNIST',
        setup=(
            'Four epochs of the recipe `fashion_mnist_resnet20`, and of the same without ABN, by the train.py of timm '
            '1.0.29.dev0 with timm 1.0.31. Accuracy after the last epoch on the 10,000 test images; mean and standard '
            'deviation of three seeds.'
        ),
        command='make comparison',
        header=('model', 'test accuracy', 'of the attention branch', 'each seed'),
        rows=(
            ('ResNet-20', '91.79 ± 0.04 %', '', '91.78, 91.75, 91.83'),
            ('ABN-ResNet-20, product', '92.13 ± 0.23 %', '92.01 ± 0.33 %', '92.21, 91.87, 92.31'),
            ('ABN-ResNet-20, residual', '91.93 ± 0.11 %', '91.88 ± 0.07 %', '91.96, 92.03, 91.81'),
        ),
    ),
    Comparison(
        title='Multi-task ABN and its backbone without ABN, on scenes with ten attributes',
        setup=(
            '20,000 scenes (Fashion-MNIST items pasted on photos), timm `test_resnet` at 64x64; means of the ten '
            'attributes on 2,000 test scenes, whose items and photos no training scene shows, and mean and standard '
            'deviation of three runs (`--seed` 0, 1 and 2). Eight epochs; and 30 epochs of the backbone, which take '
            'the CPU minutes of the eight with ABN. Pointing game: how often the maximum of the map of an attribute '
            'lies on its object; '
            "chance is 7.5 %. The maps of the ABN, in the authors' form (raw, product), are 16x16; those of the "
            'backbone are its class activation maps (2x2), or those of the same weights dilated (8x8). With equal '
            'epochs the ABN predicts better, with equal minutes the backbone does; the maps of the ABN point better '
            'than either.'
        ),
        command='python scripts/train_multi_attribute.py --model abn`, `--model baseline`, and `--epochs 30',
        header=('model', 'epochs', 'accuracy', 'mean average precision', 'pointing game', 'minutes of one CPU core'),
        rows=(
            ('multi-task ABN', '8', '85.04 ± 0.08 %', '81.25 ± 0.20 %', '80.3 ± 0.7 %', '11.2'),
            ('its attention branch', '', '81.90 ± 0.33 %', '74.71 ± 0.21 %', '', ''),
            ('backbone, CAM', '8', '83.86 ± 0.89 %', '78.18 ± 1.67 %', '10.1 ± 0.2 %', '3.1'),
            ('backbone, CAM dilated', '', '', '', '42.0 ± 3.2 %', ''),
            ('backbone, CAM', '30', '86.50 ± 0.44 %', '83.41 ± 0.66 %', '10.2 ± 0.1 %', '11.7'),
            ('backbone, CAM dilated', '', '', '', '51.3 ± 0.9 %', ''),
        ),
    ),
)

REPOSITORY = "authors' repository"


def _error(dataset: str, percent: float, source: str, variant: str = '') -> ReportedResult:
    return ReportedResult(dataset, 'top-1 error', percent, source, variant)


def _cars(model: float, maker: float) -> Tuple[ReportedResult, ReportedResult]:
    return (
        ReportedResult('CompCars, car models', 'top-1 accuracy', model, 'paper, Table 3'),
        ReportedResult('CompCars, makers', 'top-1 accuracy', maker, 'paper, Table 3'),
    )


# the paper's Table 1, on CIFAR-100: without ABN, with ABN and 'product', with ABN and 'residual'
_TABLE_1 = {
    'resnet20_cifar': (31.47, 30.61, 30.46),
    'resnet32_cifar': (30.13, 28.34, 27.91),
    'resnet44_cifar': (25.90, 24.83, 25.59),
    'resnet56_cifar': (25.61, 24.22, 24.07),
    'resnet110_cifar': (24.14, 23.28, 22.82),
}

REPORTED_RESULTS: Dict[str, Tuple[ReportedResult, ...]] = {
    **{name: (_error('CIFAR-100', plain, 'paper, Table 1'),) for name, (plain, _, _) in _TABLE_1.items()},
    **{
        f'abn_{name}': (
            _error('CIFAR-100', residual, 'paper, Table 1'),
            _error('CIFAR-100', product, 'paper, Table 1', variant="mechanism='product'"),
        )
        for name, (_, product, residual) in _TABLE_1.items()
    },
}
REPORTED_RESULTS['resnet110_cifar'] += (
    _error('CIFAR-10', 6.43, 'paper, section 4.2'),
    _error('CIFAR-100', 24.1, REPOSITORY),
)
REPORTED_RESULTS['abn_resnet110_cifar'] += (
    _error('CIFAR-10', 4.91, 'paper, section 4.2'),
    _error('CIFAR-100', 22.5, REPOSITORY),
)
REPORTED_RESULTS.update(
    {
        'densenet100_12_cifar': (_error('CIFAR-10', 4.51, 'paper, section 4.2'), _error('CIFAR-100', 22.5, REPOSITORY)),
        'abn_densenet100_12_cifar': (
            _error('CIFAR-10', 4.17, 'paper, section 4.2'),
            _error('CIFAR-100', 21.6, REPOSITORY),
        ),
        'wrn28_10_cifar': (_error('CIFAR-100', 18.9, REPOSITORY),),
        'abn_wrn28_10_cifar': (_error('CIFAR-100', 18.1, REPOSITORY),),
        'resnext29_8x64d_cifar': (_error('CIFAR-100', 18.3, REPOSITORY),),
        'abn_resnext29_8x64d_cifar': (_error('CIFAR-100', 17.7, REPOSITORY),),
        'abn_resnet50': (_error('ImageNet', 23.1, REPOSITORY),),
        'abn_resnet101': (_error('ImageNet', 21.8, REPOSITORY), *_cars(97.1, 98.1)),
        'abn_resnet152': (_error('ImageNet', 21.37, 'paper, section 4.2'), _error('ImageNet', 21.4, REPOSITORY)),
        'abn_seresnet152': (_error('ImageNet', 20.77, 'paper, section 4.2'),),
        'abn_vgg16': _cars(90.7, 92.9),
    }
)
