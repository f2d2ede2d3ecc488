"""Files that commit e1fbaff wrote load, and mean what they meant; tests/fixtures/e1fbaff/make.py made them."""

from pathlib import Path

FOLDER = Path(__file__).parent / 'fixtures' / 'e1fbaff'
