"""Measure the test accuracy of packaged weights on Fashion-MNIST.

Example:
    python scripts/evaluate_fashion_mnist.py --data-dir data --download
    python scripts/evaluate_fashion_mnist.py --data-dir data --model abn_resnet20_cifar.fashion_mnist
"""

import argparse
import sys
from pathlib import Path

import torch
from huggingface_hub.utils import tqdm
from torchvision.datasets import FashionMNIST

from timm_abn import load_model

MODEL = 'abn_resnet20_cifar.fashion_mnist_faithful'


def main() -> int:
    """Print the accuracy of both branches; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', type=Path, default=Path('data'), help='folder that holds FashionMNIST/raw')
    parser.add_argument('--download', action='store_true', help='download Fashion-MNIST into it')
    parser.add_argument('--model', default=MODEL, help='name with a tag (default: %(default)s)')
    args = parser.parse_args()
    try:
        dataset = FashionMNIST(str(args.data_dir), train=False, download=args.download)
    except RuntimeError as error:
        print(f'{Path(__file__).name}: error: {" ".join(str(error).split())}', file=sys.stderr)
        return 2
    model = load_model(args.model)
    mean, std = model.pretrained_cfg['mean'][0], model.pretrained_cfg['std'][0]
    perception, attention = evaluate(model, (dataset.data[:, None].float() / 255 - mean) / std, dataset.targets)
    print(
        f'{args.model}: test accuracy {perception:.2f} %, attention branch {attention:.2f} %, on {len(dataset)} images'
    )
    return 0


@torch.inference_mode()
def evaluate(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Return the accuracy of both branches in percent, in float32."""
    correct = torch.zeros(2)
    for batch, target in tqdm(list(zip(images.split(500), labels.split(500))), desc='evaluate'):
        explanation = model.explain(batch)
        for index, logits in enumerate((explanation.logits, explanation.attention_logits)):
            correct[index] += (logits.argmax(dim=1) == target).sum()
    perception, attention = (correct / len(images) * 100).tolist()
    return perception, attention


if __name__ == '__main__':
    sys.exit(main())
