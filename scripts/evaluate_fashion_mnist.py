"""Measure the test accuracy of the packaged model, abn_resnet20_cifar.fashion_mnist, on Fashion-MNIST.

Example:
    python scripts/evaluate_fashion_mnist.py --data-dir data --download
"""

import argparse
from pathlib import Path

import timm
from train_fashion_mnist import MODEL, evaluate, load

import timm_abn  # noqa: F401  registers the model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', type=Path, default=Path('data'), help='folder that holds FashionMNIST/raw')
    parser.add_argument('--download', action='store_true', help='download Fashion-MNIST into it')
    args = parser.parse_args()
    model = timm.create_model(MODEL, pretrained=True)
    mean, std = model.pretrained_cfg['mean'][0], model.pretrained_cfg['std'][0]
    images, labels = load(args.data_dir, False, args.download, mean, std)
    perception, attention = evaluate(model, images, labels)
    print(f'{MODEL}: test accuracy {perception:.2f} %, attention branch {attention:.2f} %, on {len(images)} images')


if __name__ == '__main__':
    main()
