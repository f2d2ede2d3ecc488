"""Three test scenes of noise, with objects whose places are known."""

import torch
from PIL import Image

# objects of attributes 0 and 1 in each test scene, as boxes
BOXES = [{0: (0, 0, 32, 32), 1: (40, 40, 64, 64)}, {1: (8, 0, 24, 60)}, {0: (30, 30, 50, 50)}]
OBJECTS = [(scene, task) for scene, boxes in enumerate(BOXES) for task in boxes]


def make_scenes(folder):
    """Write the scenes, in the layout of CelebA, with what each pixel shows."""
    torch.manual_seed(0)
    for kind in ('img_align_celeba', 'segmentation'):
        (folder / kind).mkdir(parents=True)
    for scene, boxes in enumerate(BOXES):
        pixels = (torch.rand(64, 64, 3) * 255).byte().numpy()
        Image.fromarray(pixels).save(folder / 'img_align_celeba' / f'{scene}.png')
        shown = Image.new('L', (64, 64))
        for task, box in boxes.items():
            shown.paste(task + 1, box)
        shown.save(folder / 'segmentation' / f'{scene}.png')
    flags = [' '.join('1' if task in boxes else '-1' for task in (0, 1)) for boxes in BOXES]
    lines = ['3', 'Bag Shirt', *(f'{scene}.png {line}' for scene, line in enumerate(flags))]
    (folder / 'list_attr_celeba.txt').write_text('\n'.join(lines) + '\n')
    (folder / 'list_eval_partition.txt').write_text('0.png 2\n1.png 2\n2.png 2\n')
    return folder
