"""Write the page of the docs: ``python -m tests.works_with``."""

from pathlib import Path

from timm_abn.staging import staged_files

from .matrix import make_page

PAGE = Path(__file__).parents[2] / 'docs' / 'works_with.md'

if __name__ == '__main__':
    with staged_files(PAGE.parent) as staging:
        (staging / PAGE.name).write_text(make_page(), encoding='utf-8')
