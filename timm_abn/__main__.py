"""``python -m timm_abn`` is ``timm-abn``."""

import sys

from timm_abn_cli import entry_point

if __name__ == '__main__':
    sys.exit(entry_point())
