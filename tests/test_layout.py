"""The rooms of the package: imports go from a room to those before it, never back, and none to the command line."""

import ast
import sys
from pathlib import Path

import timm

import timm_abn

ROOT = Path(__file__).parents[1]
PACKAGE, COMMAND_LINE = ROOT / 'timm_abn', ROOT / 'timm_abn_cli'

# modules at the root, which know nothing of the rooms; then the rooms, each of which may import those before it
GROUND = ['version', 'errors', 'staging', 'progress', 'records', 'checkpoint_files', 'timm_private', 'examples']
ROOMS = [
    'split',
    'backbone',
    'maps',
    'networks',
    'attached',
    'hub',
    'models',
    'data',
    'explain',
    'export',
    'publish',
    'training',
    'app',
]
# addresses from outside, which import what they stand for
ADDRESSES = {'task': 'training'}
FILES = sorted(PACKAGE.rglob('*.py'))


def imported_rooms(path):
    """Yield what a file imports of this package, by the first name below it, wherever in the file that stands."""
    package = path.relative_to(ROOT).with_suffix('').parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = base + (node.module.split('.') if node.module else [])
            names = [module] if len(module) > 1 else [[*module, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split('.') for alias in node.names]
        else:
            continue
        yield from (name[1] for name in names if name[0] == 'timm_abn' and len(name) > 1)


def room_of(path):
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return ADDRESSES.get(parts[0], parts[0])


def test_every_file_is_in_a_room():
    rooms = {room_of(path) for path in FILES}
    assert rooms == {*GROUND, *ROOMS, '__init__', '__main__'}


def test_imports_go_down():
    order = {room: level for level, room in enumerate([*GROUND, *ROOMS])}
    # among those at the ground there is no order
    level = {room: max(order[room], len(GROUND) - 1) for room in order}
    up = [
        f'{path.relative_to(ROOT)} imports {imported}'
        for path in FILES
        if not room_of(path).startswith('__')
        for imported in imported_rooms(path)
        if imported in level and level[imported] > level[room_of(path)]
    ]
    assert not up, up


def imported_packages(statements):
    """Yield the packages that statements import when they are executed, not those within functions or for types."""
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (alias.name.split('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split('.')[0]


def test_the_command_line_lies_above_the_library():
    importers = [path for path in FILES if 'timm_abn_cli' in path.read_text()]
    assert importers == [PACKAGE / '__main__.py']
    heavy = {
        path.name: set(imported_packages(ast.parse(path.read_text()).body)) - sys.stdlib_module_names
        for path in COMMAND_LINE.glob('*.py')
    }
    # what draws results is imported when there are some
    assert {name for name, packages in heavy.items() if packages} == {'evaluation_report.py'}


def test_errors_have_one_base():
    strangers = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith('Error') and node.name != 'TimmAbnError':
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                if not any(base.endswith('Error') and base not in dir(__builtins__) for base in bases):
                    strangers.append(node.name)
    assert not strangers
    assert issubclass(timm_abn.TimmAbnError, ValueError)


def test_no_module_of_models_is_called_like_one_of_timm():
    ours = {path.stem for path in (PACKAGE / 'models').glob('*.py')} - {'__init__'}
    registered_by_timm = {name for name in timm.list_modules() if name not in ours}
    timm_files = {path.stem for path in (Path(timm.__file__).parent / 'models').glob('*.py')} - {'__init__'}
    assert not ours & timm_files and registered_by_timm


def test_no_file_has_outgrown_its_room():
    long = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in [*FILES, *COMMAND_LINE.glob('*.py')]
    }
    assert not {name: lines for name, lines in long.items() if lines > 500}


def test_the_core_stays_small():
    sizes = {path.name: len(path.read_text().splitlines()) for path in (PACKAGE / 'networks').glob('*.py')}
    # who has read these two files knows the whole idea
    assert sizes['network.py'] <= 200 and sizes['attention_branch.py'] <= 220
    assert sum(sizes.values()) <= 2000, sizes
