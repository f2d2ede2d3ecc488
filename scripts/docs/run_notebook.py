"""Run examples/explain.ipynb from top to bottom and keep its outputs: what cells print, and the pictures they end with.

Example:
    pip install '.[photos]'
    python scripts/docs/run_notebook.py
"""

import ast
import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from timm_abn.staging import staged_file

NOTEBOOK = Path(__file__).resolve().parents[2] / 'examples' / 'explain.ipynb'


def run_cell(source: str, namespace: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a cell, and return its outputs as a notebook keeps them."""
    cell = ast.parse(source)
    if cell.body and isinstance(cell.body[-1], ast.Expr):  # what a cell ends with is shown, as notebooks call it: _
        cell.body[-1] = ast.Assign([ast.Name('_', ast.Store())], cell.body[-1].value)
    namespace['_'] = None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.fix_missing_locations(cell), 'cell', 'exec'), namespace)  # our own notebook
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        lines = printed.getvalue().splitlines(keepends=True)
        outputs.append(dict(output_type='stream', name='stdout', text=lines))
    if isinstance(shown := namespace['_'], Image.Image):
        file = io.BytesIO()
        shown.convert('RGB').save(file, 'JPEG', quality=85)
        data = {'image/jpeg': base64.b64encode(file.getvalue()).decode(), 'text/plain': ['<PIL.Image.Image>']}
        outputs.append(dict(output_type='display_data', metadata={}, data=data))
    return outputs


def main() -> None:
    """Run the notebook, and write it."""
    notebook = json.loads(NOTEBOOK.read_text(encoding='utf-8'))
    namespace: dict[str, Any] = {'__name__': 'notebook'}
    cells = [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']
    for number, cell in enumerate(cells, 1):
        cell.update(outputs=run_cell(''.join(cell['source']), namespace), execution_count=number)
    with staged_file(NOTEBOOK) as staged:
        staged.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
