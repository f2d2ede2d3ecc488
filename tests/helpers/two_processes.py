"""Gradients of two processes that share a batch; each imports the test, as forking fails once autograd has run."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from runpy import run_path

import torch
from torch.nn.parallel import DistributedDataParallel


def gradients_of_two(folder, make_model, loss_of, cases=(None,)):
    """Return for each of two processes the gradients by name in each case, of ``loss_of(model, rank, case)``.

    The functions are those of a test's file, a case is a sequence of numbers.
    """
    asked = json.dumps([case and list(case) for case in cases])
    command = [sys.executable, __file__, inspect.getfile(make_model), make_model.__name__, loss_of.__name__, asked]
    helpers = Path(__file__).parent
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, (helpers, helpers.parents[1]))))
    processes = [subprocess.Popen([*command, str(folder), str(rank)], env=environment) for rank in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    return [torch.load(folder / f'{rank}.pth', weights_only=True) for rank in range(2)]


def _one(file, make_model, loss_of, cases, folder, rank):
    torch.set_num_threads(1)
    test = run_path(file)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=int(rank), world_size=2)
    gradients = []
    for case in json.loads(cases):
        model = DistributedDataParallel(test[make_model]())
        test[loss_of](model, int(rank), case).backward()
        gradients.append({name: value.grad for name, value in model.module.named_parameters()})
    torch.save(gradients, f'{folder}/{rank}.pth')
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    _one(*sys.argv[1:])
