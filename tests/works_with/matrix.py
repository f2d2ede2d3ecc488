"""The matrix: which tools work with networks over which backbones. Tests run it, and the docs have a page of it."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from timm_abn.publish.markdown import markdown_table

from . import copies, graphs, parallel, sizes, training
from .subjects import BACKBONES, Subject, why_not_split

WORKS, NOT_OF_BACKBONE, FAILS = 'works', 'not of this backbone', 'fails'


class Tool(NamedTuple):
    """A row of the matrix."""

    title: str
    check: Callable[..., None]  # fails where the tool does not work with what is made of a ``Subject``
    fast: tuple[str, ...] = ()  # columns that are checked with ``make test``
    slow: tuple[str, ...] = ()  # columns that are checked with ``make test-all``; the others are checked each night


TOOLS: list[Tool] = [
    Tool('AMP (bfloat16)', training.mixed_precision, ('ResNet',), ('DINOv3',)),
    Tool('`channels_last`', training.channels_last, ('EfficientNet',), ('ConvNeXt',)),
    Tool('gradient checkpointing', training.grad_checkpointing, ('ResNet',), ('Hiera',)),
    Tool('layer decay', training.layer_decay, ('DINOv3',), ('ConvNeXt',)),
    Tool('`torch.compile(fullgraph=True)`', graphs.compile_fullgraph, (), ('ResNet', 'DINOv3')),
    Tool('`torch.export`', graphs.export, ('EfficientNet',), ('Hiera',)),
    Tool('ONNX', graphs.onnx, (), ('ResNet', 'ViT')),
    Tool('fx', graphs.fx, ('EfficientNet',), ('Hiera',)),
    Tool('TorchScript', graphs.torchscript, ('EfficientNet',), ('DINOv3',)),
    Tool('int8', graphs.int8, (), ('EfficientNet',)),
    Tool('deepcopy', copies.deepcopy, ('ResNet', 'DINOv3')),
    Tool('pickle', copies.pickling, ('ResNet', 'Hiera')),
    Tool('EMA', copies.moving_average, ('ViT',)),
    Tool('`reparameterize_model`', copies.reparameterize, ('EfficientNet',)),
    Tool('`features_only`', copies.features_only, ('EfficientNet', 'DINOv3')),
    Tool('8 threads', copies.threads, ('EfficientNet',), ('Swin',)),
    Tool('DataParallel', parallel.data_parallel, ('ResNet',), ('Swin',)),
    Tool('DDP', parallel.distributed, (), ('ResNet',)),
    Tool('FSDP2', parallel.fully_sharded, (), ('DINOv3',)),
    Tool('`set_input_size`', sizes.set_input_size, (), ('DINOv3', 'MaxViT')),
    Tool('`dynamic_img_size`, `dynamic_img_pad`', sizes.dynamic_img_size, (), ('DINOv3', 'Hiera')),
]

_DYNAMIC = TOOLS[-1].title
_ANY_SIZE = 'has no such arguments: it takes images of any size anyway'
_SET_SIZE = 'has no such arguments; `set_input_size` adapts its windows'

# (title, column) -> outcome and reason; all else works
EXCEPTIONS: dict[tuple[str, str], tuple[str, str]] = {
    **{(_DYNAMIC, column): (NOT_OF_BACKBONE, _ANY_SIZE) for column in ('ResNet', 'EfficientNet', 'ConvNeXt')},
    **{(_DYNAMIC, column): (NOT_OF_BACKBONE, _SET_SIZE) for column in ('Swin', 'MaxViT')},
    (_DYNAMIC, 'Hiera'): (NOT_OF_BACKBONE, 'has no such arguments'),
    ('`set_input_size`', 'Hiera'): (NOT_OF_BACKBONE, 'has no such method'),
    ('int8', 'MaxViT'): (FAILS, 'works, but the map of an untrained network correlates by only .75; its logits by .96'),
    ('TorchScript', 'DINOv3'): (FAILS, 'can be scripted; the side inputs between its halves cannot'),
    ('fx', 'Hiera'): (NOT_OF_BACKBONE, 'checks whether its mask is None, which a graph cannot do'),
    ('TorchScript', 'Hiera'): (NOT_OF_BACKBONE, 'unpacks shapes whose length TorchScript cannot infer'),
}


def outcome_of(tool: Tool, column: str) -> tuple[str, str]:
    """Return the declared outcome of a cell, and the reason if that is not ``WORKS``."""
    return EXCEPTIONS.get((tool.title, column), (WORKS, ''))


def error_of(tool: Tool, subject: Subject, folder: Path) -> Exception | None:
    """Return what a check fails with in an empty folder, None if it does not."""
    arguments: dict[str, Any] = dict(folder=folder) if 'folder' in inspect.signature(tool.check).parameters else {}
    try:
        tool.check(subject, **arguments)
    except Exception as error:
        return error
    return None


def make_page() -> str:
    """Return the page of the docs."""
    notes: list[str] = []

    def note(text: str) -> str:
        if text not in notes:
            notes.append(text)
        return f'[{notes.index(text) + 1}]'

    refusals = {column: why_not_split(column) for column in BACKBONES}
    rows = []
    for tool in TOOLS:
        cells = []
        for column, (name, _) in BACKBONES.items():
            outcome, reason = outcome_of(tool, column)
            if refusals[column]:
                cells.append(f'no network yet {note(f"`{name}`: {refusals[column]}")}')
            elif outcome == WORKS:
                cells.append(WORKS)
            else:
                cells.append(f'{outcome} {note(f"{tool.title}, {outcome}: the backbone {reason}.")}')
        rows.append((tool.title, *cells))
    backbones = ', '.join(f'{column} (`{name}`)' for column, (name, _) in BACKBONES.items())
    return '\n'.join(
        [
            '# Works with',
            '',
            'Which tools of PyTorch and timm work with Attention Branch Networks, on small models of eight families:',
            f'{backbones}.',
            'Each cell is a test against an independent number. It says "not of this backbone" if the same test also',
            "fails on timm's own backbone. `make works-with` writes this page; tests check that it is true.",
            '',
            markdown_table(('', *BACKBONES), rows),
            '',
            *(f'{number}. {text}' for number, text in enumerate(notes, 1)),
            '',
            '## What is tested',
            '',
            *(f'- {tool.title}: {inspect.getdoc(tool.check)}' for tool in TOOLS),
            '',
        ]
    )
