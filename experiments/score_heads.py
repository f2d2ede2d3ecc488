"""Score the evidence of plain classifiers, by the kind of their head, on scenes whose objects are known.

Example:
    pip install '.[scenes]'
    python experiments/make_multi_attribute_set.py --data-dir data --download --out data/multi_attribute
    python experiments/score_heads.py --data-dir data/multi_attribute --out outputs/heads

Tiny networks of 64x64 pixels are trained on the scenes, ten labels each, and left as they are: a ViT that reads its
class token, the mean of its tokens, or an attention pool; a ConvNeXt, a Swin and a MaxViT, whose heads have norms and
layers of their own. ``timm_abn.attach`` makes the evidence for each label, without training; it is compared with
Grad-CAM at the last stage, at the cut, and with its mean map, as in ``score_scenes.py``. Trained networks stay in
--out: stopped and started again, the script goes on with what is missing.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from results import Row, difference, interval, once, run, spread, where, write
from score_scenes import LOCALISATION, load_segmentation
from scoring import FILLS, claim, make_maps, mean_of, score_maps
from timm.layers import HybridEmbed
from timm.models.convnext import ConvNeXt
from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitTransformerCfg
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from timm.task import MultiLabelClassificationTask
from torch.utils.data import TensorDataset
from train_multi_attribute import MEAN, SIZE, STD, evaluate, fit, load, normalize

import timm_abn
from timm_abn.checkpoint_files import read_checkpoint
from timm_abn.explain.methods import create_explainer
from timm_abn.records import known_of, set_record
from timm_abn.staging import check_output_folder, staged_file
from timm_abn_cli.argument_types import positive, whole

EVIDENCE, LAST, CUT = 'evidence', 'Grad-CAM at the last stage', 'Grad-CAM at the cut'
BATCH_SIZE, WIDTH = 250, 96


def _vit(num_classes: int, **kwargs: Any) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, WIDTH)):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    embed: Any = partial(HybridEmbed, backbone=nn.Sequential(*layers))
    sizes: dict[str, Any] = dict(img_size=SIZE, patch_size=1, embed_dim=WIDTH, depth=3, num_heads=4)
    return VisionTransformer(**sizes, num_classes=num_classes, embed_layer=embed, **kwargs)


def _convnext(num_classes: int) -> nn.Module:
    return ConvNeXt(
        num_classes=num_classes,
        patch_size=2,
        output_stride=8,
        depths=(1, 1, 1, 1),
        dims=(24, 48, 96, 128),
        ls_init_value=None,
    )


def _swin(num_classes: int) -> nn.Module:
    sizes: dict[str, Any] = dict(patch_size=2, window_size=4, embed_dim=24, depths=(1, 1, 2), num_heads=(1, 2, 4))
    return SwinTransformer(img_size=SIZE, num_classes=num_classes, **sizes)


def _maxvit(num_classes: int) -> nn.Module:
    transformer = MaxxVitTransformerCfg(dim_head=16, window_size=(8, 8), grid_size=(8, 8))
    sizes: dict[str, Any] = dict(embed_dim=(32, 64), depths=(1, 1), stem_width=16, head_hidden_size=64)
    config = MaxxVitCfg(**sizes, block_type=('M', 'M'), transformer_cfg=transformer)
    return MaxxVit(config, img_size=SIZE, num_classes=num_classes)


# name -> how it is built of a number of labels, epochs of training, greatest learning rate
NETWORKS: dict[str, tuple[Callable[[int], nn.Module], int, float]] = {
    'ViT, class token': (_vit, 5, 1e-3),
    'ViT, mean of tokens': (partial(_vit, class_token=False, global_pool='avg'), 5, 1e-3),
    'ViT, attention pool': (partial(_vit, class_token=False, global_pool='map'), 5, 1e-3),
    'ConvNeXt': (_convnext, 3, 2e-3),
    'Swin': (_swin, 3, 1e-3),
    'MaxViT': (_maxvit, 3, 2e-3),
}


def main(args: argparse.Namespace) -> None:
    """Train and score all networks, and write the tables."""
    check_output_folder(args.out)
    settings = dict(limit=args.limit, walked=args.walked_scenes, steps=args.steps, fills=FILLS)
    rows: list[Row] = []
    for seed in args.seeds:
        for name in args.networks:
            path = args.out / f'{name}-seed{seed}.json'
            found = once(path, settings, lambda name=name, seed=seed: score(name, seed, args))
            rows += [dict(row, network=name, seed=seed) for row in found]
    write(args, result_of(rows, args), rows)


def result_of(rows: list[Row], args: argparse.Namespace) -> dict[str, Any]:
    """Return the table, one line for each network, and the claims."""
    columns = [
        'network',
        'seeds',
        'mAP',
        *(f'SRG, {name}' for name in (EVIDENCE, LAST, CUT, 'its mean map')),
    ]
    columns += [f'SRG above {LAST}', *(f'pointing game, {name}' for name in (EVIDENCE, LAST, CUT))]
    lines, claims = [], []
    for network in args.networks:
        of = where(rows, network=network)
        own, last, cut, mean_map = (where(of, map=name) for name in (EVIDENCE, LAST, CUT, mean_of(EVIDENCE)))
        walked = [[row for row in side if 'SRG' in row] for side in (own, last)]
        precisions = [row['mAP'] for row in of if 'mAP' in row]
        srg = [interval(side, 'SRG', 'scene') for side in (own, last, cut, mean_map)]
        pointing = [interval(side, 'pointing game', 'scene') for side in (own, last, cut)]
        above = difference(*walked, 'SRG', 'scene')
        lines.append([network, str(len(precisions)), spread(precisions, 1), *srg, above, *pointing])
        for title, others in ((LAST, last), ('its mean map', mean_map)):
            words = f'On scenes the evidence of an attached network ({network}) is above {title}'
            claims.append(claim(words, own, others, ['SRG', 'pointing game'], 'scene'))
    return dict(
        title='Evidence by the kind of head',
        command='make heads',
        setup=f'Tiny networks, trained on scenes and attached without further training; objects of {args.limit} test '
        f'scenes, SRG of those of {args.walked_scenes}.',
        tables=[dict(columns=columns, rows=lines)],
        claims=claims,
    )


def score(name: str, seed: int, args: argparse.Namespace) -> list[Row]:
    """Return a row for each map and object, and one with the network's mean average precision."""
    data, attributes = load(args.data_dir, 'test')
    model, precision = trained(name, seed, args, data, len(attributes))
    attached = timm_abn.attach(model)
    explainers: dict[str, Any] = {EVIDENCE: create_explainer('class_map', attached)}
    explainers[LAST] = create_explainer('grad_cam', model)
    explainers[CUT] = create_explainer('grad_cam', model, layer='cut')
    masks = load_segmentation(args.data_dir, args.limit)
    pixels, targets = (tensor[: args.limit] for tensor in data.tensors)
    scene, label = targets.nonzero(as_tuple=True)
    images, few = normalize(pixels)[scene], scene < args.walked_scenes
    of_objects = (masks[scene] == label[:, None, None] + 1).unsqueeze(1)
    maps = make_maps(explainers, model, images, label, BATCH_SIZE)
    walked = {title: own[few] for title, own in maps.items()}
    walks = score_maps(model, images[few], walked, label[few], args.steps, BATCH_SIZE)
    rows: list[Row] = [dict(mAP=precision)]
    for title, own in maps.items():
        scores = {metric: measure(own, of_objects).tolist() for metric, measure in LOCALISATION.items()}
        scored = where(walks, map=title)
        for number, (of, attribute) in enumerate(zip(scene.tolist(), label.tolist())):
            located = {metric: values[number] for metric, values in scores.items()}
            walk = scored[number] if few[number] else {}
            rows.append(dict(walk, **located, map=title, scene=of, attribute=attribute))
    return rows


def trained(name: str, seed: int, args: argparse.Namespace, test: TensorDataset, num_classes: int) -> tuple[Any, float]:
    """Return a network, trained now or before, and its mean average precision on the test scenes, in percent."""
    make, epochs, lr = NETWORKS[name]
    path = args.out / f'{name}-seed{seed}.pth.tar'
    torch.manual_seed(seed)
    model: Any = make(num_classes)
    model.pretrained_cfg = dict(input_size=(3, SIZE, SIZE), mean=(MEAN,) * 3, std=(STD,) * 3, crop_pct=1.0)
    model.to(memory_format=torch.channels_last)
    task = MultiLabelClassificationTask(model, verbose=False)
    if path.is_file():
        model.load_state_dict(read_checkpoint(path)[0])
    else:
        training, held_out = (load(args.data_dir, split)[0] for split in ('train', 'val'))
        fit(task, training, held_out, epochs, 64, lr, 0.05, seed)
        with staged_file(path) as staged:
            torch.save(dict(state_dict=model.state_dict()), staged)
    set_record(model, dataclasses.replace(known_of(model), probabilities='sigmoid'))
    return model.eval(), evaluate(task, test)['map']


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', type=Path, default=Path('data/multi_attribute'), help='default: %(default)s')
    parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=[*NETWORKS], help='(default: all)')
    parser.add_argument('--seeds', type=whole, nargs='+', default=[0, 1, 2], help='(default: 0 1 2)')
    parser.add_argument('--limit', type=positive, default=500, help='test scenes (default: %(default)s)')
    parser.add_argument('--walked-scenes', type=positive, default=40, help='of these, for SRG (default: %(default)s)')
    parser.add_argument('--steps', type=positive, default=16, help='of SRG (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('outputs/heads'), help='default: %(default)s')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
