#!/usr/bin/env python3
"""Any other script of timm with the models of this package: benchmark, inference, onnx_export, avg_checkpoints.

python train_wrappers/run.py benchmark --model abn_resnet50 --bench inference
"""

import sys

from timm_abn_cli.training import run

if __name__ == '__main__':
    sys.exit(run())
