"""Export a model with its explanation as extra outputs, as ONNX or as a program of torch.export.

examples:
  timm-abn export onnx --model abn_resnet20_cifar.fashion_mnist --out model.onnx
  timm-abn export torch-export --model abn_resnet152 --checkpoint weights.safetensors --dynamic batch \\
      --out model.pt2
  timm-abn export onnx --model resnet18 --checkpoint resnet18.pth --dynamic batch --out resnet18.onnx

The input is called images, shape (B, channels, H, W), normalised. The outputs are logits, (B, K), and attention_map,
(B, 1, h, w), or (B, T, h, w) for multi-task models. CAM baselines (cam_resnet50, ...) have the same two outputs. Any
other timm classifier also has class_maps, (B, K, h, w), the evidence for each class at each position; its attention_map
is the evidence for the predicted class, with a spatial mean of 0 (refined if timm-abn attach did that). Without
--dynamic, B is 1 and images have the size of the model. The more is left open, the longer tracing takes: after
--timeout seconds the export stops, leaves no file, and suggests something simpler. Image sizes stay fixed if they
cannot be traced, as with TensorFlow's padding (tf_efficientnet); the output says so.

Before the file appears, it is run (ONNX: by onnxruntime) and compared with the model on random images, with --dynamic
in several batch and image sizes. The metadata record how images are prepared and the names of the classes:
metadata_props of the ONNX graph, metadata.json in the archive of torch.export.
"""

import argparse
import importlib.util
import sys
import time

from .argument_types import output_file, positive_number
from .arguments import add_model_arguments, given_model_kwargs, model_title
from .errors import CommandError
from .limited import OutOfTime, run_limited
from .printing import visible

__all__ = ['add_arguments', 'check_packages', 'run']

ENDINGS = {'onnx': '.onnx', 'torch-export': '.pt2'}
# what is asked for -> what is simpler to trace
SIMPLER = {
    'all': '--dynamic batch (images of one size)',
    'batch': 'an export without --dynamic (one image of one size)',
    'size': 'an export without --dynamic (one image of one size)',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('format', choices=tuple(ENDINGS), help='format of the file')
    add_model_arguments(parser)
    length = 'accept any batch size, any image size, or both; --dynamic alone means both, as far as the backbone allows'
    lengths = ('batch', 'size', 'all')
    parser.add_argument('--dynamic', nargs='?', const='all', default='', choices=lengths, help=length)
    limit = 'stop after this time (default: 600)'
    parser.add_argument('--timeout', type=positive_number, default=600, metavar='SECONDS', help=limit)
    parser.add_argument('--out', type=output_file, required=True, metavar='FILE', help='file to write (.onnx, .pt2)')


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if args.out.suffix != ENDINGS[args.format]:
        raise CommandError(f'--out must end in {ENDINGS[args.format]} for {args.format}, got {args.out}')
    model_kwargs = given_model_kwargs(args)

    started = time.monotonic()

    def say(phase: str) -> None:
        print(f'{time.monotonic() - started:6.1f} s  {phase}', file=sys.stderr, flush=True)

    arguments = dict(
        model=args.model,
        checkpoint=args.checkpoint,
        model_kwargs=model_kwargs,
        file_format=args.format,
        dynamic=args.dynamic,
        label_names=args.label_names,
    )
    try:
        check_packages(args.format)
        facts = run_limited('timm_abn.export.writing:write_graph', arguments, args.out, args.timeout, say)
    except OutOfTime as phase:
        simpler = f'try {SIMPLER[args.dynamic]}, or' if args.dynamic else 'you can'
        raise CommandError(
            f'{model_title(args)} was not exported within {args.timeout:g} s, stopped while {phase}; {simpler} allow '
            f'more time (--timeout SECONDS)'
        ) from None
    except CommandError as error:
        raise CommandError(f'cannot export {model_title(args)}: {error}') from None
    for fact, value in (*facts.items(), ('Written to', args.out)):
        print(visible(f'{fact}: {value}'))
    return 0


def check_packages(file_format: str) -> None:
    """Raise CommandError unless the packages that a format needs besides PyTorch are installed."""
    packages = ('onnx', 'onnxscript', 'onnxruntime') if file_format == 'onnx' else ()
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(f'ONNX needs {" and ".join(missing)}: pip install {" ".join(packages)}')
