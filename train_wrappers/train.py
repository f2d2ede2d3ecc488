#!/usr/bin/env python3
"""timm's train.py for Attention Branch Networks, with all of its flags.

python train_wrappers/train.py --model abn_resnet50 --data-dir /data/imagenet
python train_wrappers/train.py --recipe cifar100 --model abn_resnet110_cifar --data-dir data
torchrun --nproc_per_node 8 train_wrappers/train.py --model abn_resnet152 --data-dir /data/imagenet
"""

import sys

from timm_abn_cli.training import train

if __name__ == '__main__':
    sys.exit(train())
