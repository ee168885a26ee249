"Folders of arrays: whole or not at all, whenever the process ends, and never of two results"
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from fastai_clean._files import load_arrays, save_arrays

META = dict(ids=['a', 'b'], vocab=[], config={})
KILLED = """
import os, sys
import numpy as np
from fastai_clean import _files

calls = []
def replace(*args, real=os.replace):
    calls.append(args)
    if len(calls) == int(sys.argv[2]): os._exit(9)
    real(*args)
os.replace = replace
_files.save_arrays(sys.argv[1], 'a result', 'about.json', {'x': np.ones(3)}, dict(ids=[], vocab=[], config={}), True)
"""


def save(path, x, overwrite=False, **meta):
    return save_arrays(path, 'a result', 'about.json', {'x': np.asarray(x)}, {**META, **meta}, overwrite)


def load(path, mapped=()): return load_arrays(path, 'result', 'about.json', ['x'], mapped)[0]['x']


@pytest.mark.parametrize('step', [1, 2])
def test_save_that_is_killed_leaves_the_old_or_says_where_it_is(step, tmp_path):
    path = save(tmp_path/'oof', np.zeros(3))
    # Another result's leftovers, whose name begins alike
    shutil.copytree(path, tmp_path/f'.oof-2-{"0"*32}.tmp')
    run = subprocess.run([sys.executable, '-c', KILLED, str(path), str(step)])
    assert run.returncode == 9
    if path.exists(): return np.testing.assert_array_equal(load(path), np.zeros(3))
    with pytest.raises(FileNotFoundError, match='saving result there was interrupted, and .oof-.* has it') as e: load(path)
    assert step == 2 and '.oof-2-' not in str(e.value)
    hidden = [o for o in tmp_path.glob('.oof-*') if o.name in str(e.value)]
    assert sorted(load(o).sum() for o in hidden) == [0, 3]


@pytest.mark.parametrize('step', [1, 2])
def test_save_that_is_interrupted_leaves_the_old(step, tmp_path, monkeypatch):
    path = save(tmp_path/'oof', np.zeros(3))
    calls = []

    def replace(*args, real=os.replace):
        calls.append(args)
        if len(calls) == step: raise KeyboardInterrupt
        real(*args)
    monkeypatch.setattr(os, 'replace', replace)
    with pytest.raises(KeyboardInterrupt): save(path, np.ones(3), True)
    assert np.array_equal(load(path), np.zeros(3)) and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize('other', [[1., 2.], [2., 1., 0.], [1, 2, 0]], ids=['length', 'values', 'type'])
def test_array_of_another_folder_is_refused(other, tmp_path):
    one, two = save(tmp_path/'one', [1., 2., 0.]), save(tmp_path/'two', other)
    shutil.copy(two/'x.npy', one/'x.npy')
    with pytest.raises(ValueError, match='one is a broken result: x.npy is not the one that was saved with about.json'):
        load(one)
    with pytest.raises(ValueError, match='one is a broken result: x.npy'): load(one, ['x'])


@pytest.mark.parametrize('at', [0, 4500, 8999])
def test_array_left_on_disk_is_known_by_its_ends(at, tmp_path):
    x = np.arange(9000.).reshape(3000, 3).T
    path = save(tmp_path/'one', x)
    assert isinstance(load(path, ['x']), np.memmap)
    x.ravel('F')[at] = -1
    np.save(path/'x.npy', x)
    if at == 4500: assert load(path, ['x']).shape == (3, 3000)
    else:
        with pytest.raises(ValueError, match='x.npy is not the one'): load(path, ['x'])


@pytest.mark.parametrize('array', [np.zeros((0, 3)), np.array(['a', 'bc']), np.ones((3, 2), bool), np.float32(3),
                                   np.arange(6).reshape(2, 3).T])
def test_every_kind_of_array_comes_back(array, tmp_path):
    assert np.array_equal(load(save(tmp_path/'oof', array)), array)


def test_folder_without_sums_is_read(tmp_path):
    path = save(tmp_path/'oof', [1, 2])
    (path/'about.json').write_text(json.dumps(META))
    assert load(path).tolist() == [1, 2]
