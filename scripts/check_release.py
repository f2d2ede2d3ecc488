"""Build the files of a release into dist/, check them, and run the demo from each in a fresh environment.

The environments get their dependencies from the package registry that pip is set up for. Nothing is uploaded.

Example:
    python scripts/check_release.py
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / 'dist'


def main() -> int:
    """Build, check, try, and return the exit code."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    try:
        files = build(DIST)
        run(sys.executable, '-m', 'twine', 'check', '--strict', *files)
        for file in files:
            with tempfile.TemporaryDirectory() as folder:
                try_out(file, sdist=files[0], folder=Path(folder))
    except subprocess.CalledProcessError as error:
        print(f'check_release.py: failed: {" ".join(map(str, error.cmd))}', file=sys.stderr)
        return 1
    print('ready:', ', '.join(file.name for file in files))
    return 0


def build(folder: Path) -> list[Path]:
    """Empty a folder, build the sdist there and, from that, the wheel, and return both."""
    shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, '-m', 'build', '--outdir', folder, ROOT)
    (sdist,), (wheel,) = folder.glob('*.tar.gz'), folder.glob('*.whl')
    return [sdist, wheel]


def try_out(file: Path, sdist: Path, folder: Path) -> None:
    """Install a file in a fresh environment, and run the demo of the sdist there, away from the repository."""
    print(f'trying {file.name}', flush=True)
    environment = folder / 'environment'
    venv.create(environment, with_pip=True)
    python = environment / ('Scripts' if os.name == 'nt' else 'bin') / 'python'
    run(python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', f'{file}[photos]')
    run_demo(python, sdist, folder)


def run_demo(python: Path, sdist: Path, folder: Path) -> Path:
    """Run the demo of an sdist with the package that an environment holds, and return the picture that it leaves."""
    with tarfile.open(sdist) as archive:
        script = next(name for name in archive.getnames() if name.endswith('/scripts/demo.py'))
        content = archive.extractfile(script)
        assert content is not None
        (folder / 'demo.py').write_bytes(content.read())
    picture = folder / 'demo.png'
    run(python, folder / 'demo.py', '--out', picture, cwd=folder)
    if not picture.stat().st_size:
        raise OSError(f'{picture} is empty')
    return picture


def run(*command: object, cwd: Path = ROOT) -> None:
    """Run a command that sees neither this repository nor another one by PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    subprocess.run([str(part) for part in command], cwd=cwd, env=environment, check=True)


if __name__ == '__main__':
    sys.exit(main())
