"""Write a page that explains images in the visitor's browser: any web server of plain files serves it.

Example:
    make docs && make static-page
    python -m http.server --directory site

    timm-abn export onnx --model abn --checkpoint model_best.pth.tar --out birds.onnx
    python scripts/docs/make_static_page.py --onnx birds.onnx --samples birds/ --out page

The network is a file of ``timm-abn export onnx``, whose metadata say how images are prepared and what the classes are
called; without --onnx, the packaged network of ``make demo``. It runs by onnxruntime-web, which npm fetches (nothing of
it is installed). Needs the extra onnx, and npm.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm_abn import TimmAbnError, load_model
from timm_abn.data.sources import Source, find_sources
from timm_abn.export.graph import export_metadata, export_network
from timm_abn.maps.colormaps import colormap_table
from timm_abn.staging import check_new_folder, staged_folder
from timm_abn_cli.export import check_packages

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'static_page'
PACKAGED = 'abn_resnet20_cifar.fashion_mnist_faithful'
RUNTIME = 'onnxruntime-web@1.30.0'
RUNTIME_FILES = ('ort.wasm.min.mjs', 'ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm')
PREPARED_BY = ('input_size', 'interpolation', 'mean', 'std', 'crop_pct', 'crop_mode')
INTERPOLATIONS = ('bilinear', 'bicubic')  # those of docs/static_page/preprocessing.js
MOST_SAMPLES = 20


def main() -> int:
    """Write the page and return the exit code."""
    args = parse_args()
    try:
        check_packages('onnx')
        check_new_folder(args.out)
        samples = find_sources([args.samples])[:MOST_SAMPLES]
        with staged_folder(args.out) as folder:
            for file in PAGE.iterdir():
                shutil.copy(file, folder)
            write_network(args.onnx, folder / 'model.onnx')
            config = dict(page_config(folder / 'model.onnx'), samples=copy_samples(samples, folder / 'samples'))
            (folder / 'model.json').write_text(json.dumps(config), encoding='utf-8')
            fetch_runtime(folder / 'ort')
    except (TimmAbnError, OSError) as error:
        print(f'{Path(__file__).name}: error: {error}', file=sys.stderr)
        return 2
    print(f'The page is {args.out / "index.html"}; look at it with: python -m http.server --directory {args.out}')
    return 0


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--onnx', type=Path, metavar='FILE', help=f'network (default: {PACKAGED}, exported)')
    parser.add_argument(
        '--samples',
        type=Path,
        default=ROOT / 'timm_abn' / 'samples',
        metavar='FOLDER',
        help=f'images to choose from, the first {MOST_SAMPLES} (default: those of make demo)',
    )
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='a new folder')
    return parser.parse_args()


def copy_samples(sources: Sequence[Source], folder: Path) -> list[str]:
    """Copy images, and return their paths within the folder."""
    names = [f'{source.name.as_posix()}{source.path.suffix}' for source in sources]
    for source, name in zip(sources, names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source.path, folder / name)
    return names


def write_network(source: Any, file: Path) -> None:
    """Copy an exported network, or export the packaged one if there is none."""
    if source is not None:
        shutil.copy(source, file)
        return
    model = load_model(PACKAGED)
    export_network(model).save_onnx(file, export_metadata(model, PACKAGED))


def page_config(file: Path) -> dict[str, Any]:
    """Return what the page must know of an exported network."""
    import onnx

    try:
        graph = onnx.load(file)
    except Exception as error:  # protobuf has errors of its own
        raise TimmAbnError(f'{file} is no ONNX file: {error}') from None
    outputs = {output.name: output.type.tensor_type.shape.dim for output in graph.graph.output}
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    missing = [name for name in ('logits', 'attention_map') if name not in outputs]
    missing += [name for name in ('model', *PREPARED_BY) if name not in metadata]
    if missing:
        raise TimmAbnError(f'the file has no {missing[0]}: it is not of timm-abn export onnx.')
    config = {name: json.loads(metadata[name]) for name in ('model', *PREPARED_BY)}
    config.update({name: json.loads(metadata[name]) for name in ('label_names', 'probabilities') if name in metadata})
    if outputs['attention_map'][1].dim_value != 1:
        raise TimmAbnError('the network has a map for each of several tasks: the page shows one.')
    check_preparation(config)
    return dict(config, colours=colormap_table('viridis').tolist())


def check_preparation(config: dict[str, Any]) -> None:
    """Check that the page can prepare images as a network wants them."""
    _, height, width = config['input_size']
    if config['interpolation'] not in INTERPOLATIONS:
        raise TimmAbnError(
            f'images are resized by {config["interpolation"]!r}, the page can {" and ".join(INTERPOLATIONS)}.'
        )
    known = config['crop_mode'] == 'squash' or (config['crop_mode'] == 'center' and height == width)
    if not known or config['crop_pct'] > 1:
        raise TimmAbnError(
            f'images are cut by {config["crop_mode"]!r} at {config["crop_pct"]} to {height}x{width}, the page can '
            "'squash', and 'center' of squares, at 1 and below."
        )


def fetch_runtime(folder: Path) -> None:
    """Let npm fetch onnxruntime-web, and keep the files that the page loads."""
    npm = shutil.which('npm')
    if npm is None:
        raise TimmAbnError('npm, which fetches onnxruntime-web, is not there: install Node.js.')
    with tempfile.TemporaryDirectory() as place:
        command = [npm, 'install', '--ignore-scripts', '--no-audit', '--no-fund', '--prefix', place, RUNTIME]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if line.strip()), f'exit code {done.returncode}')
            raise TimmAbnError(f'npm could not fetch {RUNTIME}: {reason}')
        folder.mkdir()
        for name in RUNTIME_FILES:
            shutil.copy(Path(place) / 'node_modules' / 'onnxruntime-web' / 'dist' / name, folder)


if __name__ == '__main__':
    sys.exit(main())
