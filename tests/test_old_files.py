"""Files that commit e1fbaff wrote load, and mean what they meant; tests/fixtures/e1fbaff/make.py made them."""

import timm
import torch
from safetensors.torch import load_file
from pathlib import Path

import pytest

import timm_abn

FOLDER = Path(__file__).parent / 'fixtures' / 'e1fbaff'
