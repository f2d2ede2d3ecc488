#!/usr/bin/env python3
"""timm's validate.py for Attention Branch Networks, with all of its flags.

python train_wrappers/validate.py --model abn_resnet152 --checkpoint model_best.pth.tar --data-dir /data/imagenet
"""

import sys

from timm_abn_cli.training import validate

if __name__ == '__main__':
    sys.exit(validate())
