"""Measure explainers beside the evaluation forward pass, and Grad-CAM beside the package grad-cam.

Times are medians of runs that alternate in one process, so that a drift of the machine hits both. What is compared with
the package needs ``pip install 'timm-abn[compare]'``, and is left out without it.

Example:
    python scripts/benchmark_explainers.py --backbone resnet50 --batch-size 8 --threads 2
"""

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch

import timm_abn
from timm_abn.explain.methods import create_explainer


def main() -> None:
    """Print one line per ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--backbone', default='resnet50', help='name of a timm model (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=8, help='images at once (default: %(default)s)')
    parser.add_argument('--size', type=int, default=224, help='pixels along a side (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=2, help='threads of PyTorch (default: %(default)s)')
    parser.add_argument('--repeats', type=int, default=7, help='runs of each (default: %(default)s)')
    parser.add_argument('--channels-last', action='store_true', help='memory format of the models and images')
    parser.add_argument('--device', default='cpu', help="'cpu' or 'cuda' (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
    backbone, network = (
        timm.create_model(name, **kwargs).eval().to(args.device, memory_format=memory_format)
        for name, kwargs in ((args.backbone, {}), ('abn', dict(backbone=args.backbone)))
    )
    images = torch.randn(args.batch_size, 3, args.size, args.size, device=args.device)
    images = images.to(memory_format=memory_format)
    print(f'{args.backbone}, {len(images)} images of {args.size} px, {args.threads} threads, {args.device}')
    compare(images, runs_of(backbone, network, images), args.repeats)


def runs_of(backbone: torch.nn.Module, network: torch.nn.Module, images: torch.Tensor) -> dict[str, Callable]:
    """Return what is measured, by name."""
    attention, grad_cam, later = (
        create_explainer('attention', network),
        create_explainer('grad_cam', backbone),
        create_explainer('grad_cam', backbone, layer=backbone.feature_info[-1]['module']),
    )
    runs: dict[str, Callable] = {
        'backbone forward': torch.inference_mode()(lambda: backbone(images)),
        'ABN forward': torch.inference_mode()(lambda: network(images)),
        'ABN attention': lambda: attention(images),
        'ABN explain()': lambda: network.explain(images),
        'our Grad-CAM at the cut': lambda: grad_cam(images),
        'our Grad-CAM at the last stage': lambda: later(images),
    }
    try:
        from pytorch_grad_cam import GradCAM
    except ImportError:
        print("the package grad-cam is not installed: pip install 'timm-abn[compare]'")
        return runs
    cut = timm_abn.split.cut_backbone(backbone).path
    # as its documentation shows it; made anew, since its hooks would slow the other runs
    for name, layer in (('at the cut', cut), ('at the last stage', backbone.feature_info[-1]['module'])):
        runs[f'grad-cam {name}'] = lambda layer=layer: package(GradCAM, backbone, layer, images)
    return runs


def package(method: Callable, backbone: torch.nn.Module, layer: str, images: torch.Tensor) -> object:
    with method(model=backbone, target_layers=[backbone.get_submodule(layer)]) as cam:
        return cam(input_tensor=images, targets=None)


def compare(images: torch.Tensor, runs: dict[str, Callable], repeats: int) -> None:
    """Run all in turn, and print medians and the ratios that are asked for."""
    times: dict[str, list] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if images.is_cuda:
                torch.cuda.synchronize()
            if repeat:  # the first warms up
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in medians.items():
        print(f'{name}: {seconds * 1e3:.0f} ms, {len(images) / seconds:.1f} images/s', flush=True)
    for first, second, goal in (
        ('ABN attention', 'ABN forward', '<= 1.05'),
        ('our Grad-CAM at the cut', 'grad-cam at the cut', '<= 0.85'),
        ('our Grad-CAM at the last stage', 'grad-cam at the last stage', '<= 0.85'),
    ):
        if second in medians:
            print(f'time of {first} / {second}: {medians[first] / medians[second]:.2f} (goal {goal})')
    if 'grad-cam at the cut' in medians:
        for name in ('ABN attention', 'ABN explain()'):
            for other in ('grad-cam at the cut', 'grad-cam at the last stage'):
                print(f'images/s of {name} / {other}: {medians[other] / medians[name]:.2f} (goal >= 1.8)')


if __name__ == '__main__':
    main()
