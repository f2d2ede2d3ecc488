"""A folder as the archive of CelebA unpacks, with three attributes of the forty."""

import numpy as np
from PIL import Image

ATTRIBUTES = ['Eyeglasses', 'Male', 'Smiling']
# image -> partition, what the official file says of it
IMAGES = {
    '000001.jpg': (0, '-1  1 -1'),
    '000002.jpg': (1, ' 1 -1  1'),
    '000003.jpg': (0, ' 1  1  1'),
    '000004.jpg': (2, '-1 -1 -1'),
    '000005.jpg': (0, '-1 -1  1'),
}


def write_celeba(folder):
    (folder / 'img_align_celeba').mkdir(parents=True)
    for index, name in enumerate(IMAGES):
        pixels = np.full((218, 178, 3), 40 * index, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / 'img_align_celeba' / name)
    rows = [f'{name} {row}' for name, (_, row) in IMAGES.items()]
    (folder / 'list_attr_celeba.txt').write_text('\n'.join([str(len(rows)), ' '.join(ATTRIBUTES) + ' ', *rows]) + '\n')
    partition = ''.join(f'{name} {part}\n' for name, (part, _) in IMAGES.items())
    (folder / 'list_eval_partition.txt').write_text(partition)
    return folder
