"""Serve a page in the browser: explain photos, paint on their maps, and see the predictions change.

examples:
  timm-abn app
  timm-abn app --model abn_resnet50 --checkpoint output/train/birds/model_best.pth.tar --port 8000
  timm-abn app --model resnet18 --checkpoint resnet18.safetensors

Needs the extra app: pip install 'timm-abn[app]'

Without --model the page offers the Attention Branch Networks whose weights come with the package. Several models may be
named. Any timm classifier is shown with a map of each class; only the map of an Attention Branch Network can be painted
on, since only that changes the prediction. Only this machine reaches the page, unless --host says otherwise: 0.0.0.0
opens it to your whole network. Requests for names other than those of --host and --allowed-host, and from pages of
other sites, are refused.

A small picture of each photo stays in the memory of this process, separate for each visitor, and is forgotten an hour
after its last use, or when 100 others have come. Saved files lie in a temporary folder, which is removed at the end.
Files above 25 MB or 50 megapixels are refused. Nothing is sent anywhere.
"""

import argparse
import threading
from pathlib import Path

from .argument_types import positive
from .arguments import add_building_arguments, add_computing_arguments, choose_device, given_model_kwargs, given_told
from .errors import CommandError

__all__ = ['add_arguments', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    models = 'models to choose from, see timm-abn list; or hf-hub:OWNER/NAME (default: those of the package)'
    parser.add_argument('--model', nargs='+', default=[], metavar='NAME', help=models)
    weights = 'weights of the one model that is named (.safetensors, .pth.tar)'
    parser.add_argument('--checkpoint', type=Path, metavar='FILE', help=weights)
    add_building_arguments(parser)
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on (default: 127.0.0.1, this machine)')
    names = 'other names by which browsers may ask for the page (default: localhost, and those of --host)'
    parser.add_argument('--allowed-host', nargs='+', default=[], metavar='NAME', help=names)
    port = 'port to listen on (default: the first free one from 7860 on)'
    parser.add_argument('--port', type=positive, metavar='P', help=port)
    add_computing_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until the process is told to end."""
    given = args.checkpoint or args.num_classes or args.label_names or args.model_kwargs or given_told(args)
    if given and len(args.model) != 1 and not (args.checkpoint and not args.model):
        raise CommandError(f'--checkpoint, and arguments of a model, are of one; --model names {len(args.model)}')
    if args.port and args.port > 65535:
        raise CommandError(f'argument --port: ports are 1 to 65535, got {args.port}')

    from timm_abn.app.models import OfferedModels, models_with_weights
    from timm_abn.app.server import running_page
    from timm_abn.models.training_checkpoints import recorded_model

    names = args.model or ([recorded_model(args.checkpoint)] if args.checkpoint else models_with_weights())
    kwargs = given_model_kwargs(args) if given else {}
    offered = OfferedModels(names, args.checkpoint, choose_device(args), args.label_names, **kwargs)
    with running_page(offered, args.host, args.port, allowed_hosts=args.allowed_host) as address:
        print(f'The page is at {address} (Ctrl-C ends it)', flush=True)
        threading.Event().wait()
    return 0
