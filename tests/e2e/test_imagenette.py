"Imagenette by the real code: an archive of its layout and names, served on loopback, downloaded and experimented on"
import colorsys
import runpy
import tarfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import fastai.data
import numpy as np
import pandas as pd
import pytest
import torch
import wandb
from fastai.data.external import URLs, fastai_cfg
from fastdownload.core import path_stats
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support

from fastai_clean.vision import imagenette_learner, imagenette_path, noisy_imagenette, noisy_mnist

EXAMPLES = Path(__file__).parents[2]/'examples'
DATA = Path(__file__).parents[3]/'shared/data/noisy_imagenette'
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.exists(), reason=f'{DATA} is not here')]

NAME = 'imagenette2-160'
COLUMNS = ['path', *(f'noisy_labels_{o}' for o in (0, 1, 5, 25, 50)), 'is_valid']
LOSSES = ['imagenette_labelsmoothing', 'imagenette_no_labelsmoothing']
PRUNES = ['prune_noise_rate', 'prune_noise_rate_class']


def add(tar, name, data):
    info = tarfile.TarInfo(f'{NAME}/{name}')
    info.size = len(data)
    tar.addfile(info, BytesIO(data))


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
    "The published CSV's first 24 training and 6 validation rows of each class; a class has its own hue"
    df, rng = pd.read_csv(DATA/'noisy_imagenette.csv'), np.random.default_rng(0)
    df = pd.concat([part.head(6 if valid else 24) for (_, valid), part in df.groupby(['noisy_labels_0', 'is_valid'])])
    classes, file = sorted(df.noisy_labels_0.unique()), tmp_path_factory.mktemp('served')/f'{NAME}.tgz'
    with tarfile.open(file, 'w:gz') as tar:
        for o in df.itertuples():
            hue = np.array(colorsys.hsv_to_rgb(classes.index(o.noisy_labels_0)/10, 1, 200))
            pixels, data = (hue + rng.integers(0, 50, (40, 48, 3))).astype('uint8'), BytesIO()
            Image.fromarray(pixels).save(data, 'JPEG', quality=90)
            add(tar, o.path, data.getvalue())
        add(tar, 'noisy_imagenette.csv', df.to_csv(index=False).encode())
    return SimpleNamespace(data=file.read_bytes(), df=df.reset_index(drop=True), stats=path_stats(file))


class Handler(BaseHTTPRequestHandler):
    "Serves `server.data`, and says that it is `server.length` bytes; None: says nothing"
    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(200)
        if self.server.length is not None: self.send_header('Content-Length', str(self.server.length))
        self.end_headers()
        self.wfile.write(self.server.data)

    def log_message(self, *args): pass


@pytest.fixture(scope='module')
def server():
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.url = f'http://127.0.0.1:{server.server_port}/{NAME}.tgz'
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def at_home(patch, home, url, stats=None):
    "fastai with `home` as its folder, `url` as Imagenette's address, and `stats` as what it knows of that file"
    patch.setenv('FASTAI_HOME', str(home))
    patch.setattr(URLs, 'IMAGENETTE_160', url)
    patch.setattr(fastai.data, '__file__', str(home/'__init__.py'))
    (home/'download_checks.py').write_text(repr({url: stats} if stats else {}))
    fastai_cfg.cache_clear()


@pytest.fixture
def serve(server, archive, monkeypatch, tmp_path):
    "Serve bytes as the archive, to a fastai without data; gives its folder"
    def serve_it(data=archive.data, length=-1, stats=archive.stats, url=server.url):
        server.data, server.length, server.asked = data, len(data) if length == -1 else length, []
        at_home(monkeypatch, tmp_path, url, stats)
        return tmp_path
    yield serve_it
    fastai_cfg.cache_clear()


def left(home): return sorted(o.relative_to(home).as_posix() for o in home.rglob('*') if o.is_file()
                              and o.suffix not in ('.ini', '.py'))


def test_archive_is_downloaded_once_and_gives_the_published_rows(serve, server, archive):
    home = serve()
    df = noisy_imagenette(pct_noise=25)
    assert df.path.tolist() == archive.df.path.tolist() and df.label.tolist() == archive.df.noisy_labels_25.tolist()
    assert df.true_label.tolist() == archive.df.noisy_labels_0.tolist() and df.is_valid.sum() == 60
    assert imagenette_path() == home/'data'/NAME and server.asked == [f'/{NAME}.tgz']
    assert sorted(o.name for o in (home/'data').iterdir()) == [NAME]
    assert (home/'archive'/f'{NAME}.tgz').read_bytes() == archive.data
    learn = imagenette_learner(25, 'xresnet18', 32, pretrained=False, num_workers=0)
    assert len(learn.dls.train_ds) == 240 and len(learn.dls.vocab) == 10 and len(server.asked) == 1


def test_archive_put_there_by_hand_is_unpacked_without_network(serve, server, archive):
    home = serve()
    (home/'archive').mkdir()
    (home/'archive'/f'{NAME}.tgz').write_bytes(archive.data)
    assert len(noisy_imagenette()) == 300 and server.asked == []


def flipped(data, position):
    return data[:position] + bytes([data[position] ^ 255]) + data[position + 1:]


@pytest.mark.parametrize('change, error, match', [
    (lambda a: dict(data=a.data[:9000], length=len(a.data)), ConnectionError, 'not be downloaded .*only 9000 of'),
    (lambda a: dict(data=a.data[:9000], length=None), ValueError, 'gave a file of 9000 bytes, but fastai expects '),
    (lambda a: dict(data=a.data[:9000], length=None, stats=None), ValueError, 'gave a broken .tgz .*end-of-stream'),
    (lambda a: dict(data=flipped(a.data, 5000)), ValueError, 'gave a file with the checksum'),
    (lambda a: dict(data=flipped(a.data, len(a.data) - 6), stats=None), ValueError, 'gave a broken .tgz .*CRC'),
    (lambda a: dict(data=b'<html>Sign in</html>', stats=None), ValueError, 'gave a broken .tgz .*[Nn]ot a gzip')],
    ids=['short', 'short unsaid', 'short unknown', 'checksum', 'tail', 'page'])
def test_half_or_wrong_download_is_refused_and_not_kept(change, error, match, serve, archive):
    home = serve(**change(archive))
    with pytest.raises(error, match=match) as e: noisy_imagenette()
    assert f'get {NAME}.tgz elsewhere and put it at {home}/archive/{NAME}.tgz, or pass path=' in str(e.value)
    assert left(home) == []
    serve()
    assert len(noisy_imagenette()) == 300, 'the next, whole one is used'


def test_archive_that_was_half_there_is_downloaded_anew(serve, server, archive):
    home = serve()
    (home/'archive').mkdir()
    (home/'archive'/f'{NAME}.tgz').write_bytes(archive.data[:9000])
    assert len(noisy_imagenette()) == 300 and len(server.asked) == 1


def test_no_network_is_one_sentence_with_address_file_and_place(serve):
    home, url = serve(url=f'http://127.0.0.1:9/{NAME}.tgz'), f'http://127.0.0.1:9/{NAME}.tgz'
    with pytest.raises(ConnectionError, match='Connection refused') as e: noisy_imagenette()
    assert str(e.value).startswith(f'{url} could not be downloaded') and '\n' not in str(e.value)
    assert f'put it at {home}/archive/{NAME}.tgz' in str(e.value) and left(home) == []


def test_folder_that_was_half_unpacked_is_refused(serve):
    home = serve()
    noisy_imagenette()
    lost = sorted((home/'data'/NAME/'val').rglob('*.JPEG'))
    for o in lost[:7]: o.unlink()
    with pytest.raises(FileNotFoundError, match='7 of 300 images .* do not exist, first .*: delete the folder'):
        noisy_imagenette()


def test_unpacking_that_is_interrupted_leaves_no_folder(serve, monkeypatch):
    home = serve()
    def stop(*args, **kwargs): raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr('tarfile.TarFile.extractall', stop)
        with pytest.raises(KeyboardInterrupt): imagenette_path()
    assert list((home/'data').iterdir()) == [] and len(noisy_imagenette()) == 300


def test_mnist_is_downloaded_by_the_same_code(serve, monkeypatch):
    serve(data=b'half')
    monkeypatch.setattr(URLs, 'MNIST', URLs.IMAGENETTE_160)
    with pytest.raises(ValueError, match='a file of 4 bytes'): noisy_mnist()


@pytest.fixture(scope='module')
def functions():
    "What examples/noisy_imagenette.py defines"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        return runpy.run_path(str(EXAMPLES/'noisy_imagenette.py'))


@pytest.fixture(scope='module')
def script(functions):
    return partial(functions['main'], arch='xresnet18', scratch=True, size=32, epochs=1, n_folds=2, bs=32, lr=5e-3,
                   num_workers=0)


@pytest.fixture(scope='module')
def written(script, server, archive, tmp_path_factory):
    "The whole script, from the download on"
    home, out = tmp_path_factory.mktemp('home'), tmp_path_factory.mktemp('out')
    server.data, server.length, server.asked = archive.data, len(archive.data), []
    with pytest.MonkeyPatch.context() as patch:
        at_home(patch, home, server.url, archive.stats)
        table = script(out=out, noise='25,50')
    fastai_cfg.cache_clear()
    return SimpleNamespace(out=out, table=table, path=home/'data'/NAME)


def test_script_writes_the_seeds_tree_with_its_columns(written, archive):
    expected = {f'{loss}/{prune}/noisy{level}_train_predictions.csv'
                for loss in LOSSES for prune in PRUNES for level in (25, 50)}
    found = {o.relative_to(written.out).as_posix() for o in written.out.rglob('*.csv')}
    assert found == expected | {'experiments.csv'}
    seed = pd.read_csv(DATA/'seed_outputs'/LOSSES[0]/PRUNES[0]/'noisy25_train_predictions.csv', nrows=1)
    for name in expected:
        df = pd.read_csv(written.out/name)
        level = name.split('noisy')[-1].split('_')[0]
        assert list(df.columns) == list(seed.columns) and not df.is_valid.any() and len(df) > 0
        assert (df.predictions != df[f'noisy_labels_{level}']).all() and df.confidence.between(.1, 1).all()
        pd.testing.assert_frame_equal(df[COLUMNS], df[['path']].merge(archive.df, how='left')[COLUMNS])


def test_table_of_the_script_agrees_with_scikit_learn(written, archive):
    table, train = written.table, archive.df[~archive.df.is_valid]
    assert len(table) == 8 and list(table.columns) == 'noise loss prune planted flagged found precision recall ' \
                                                      'f1 accuracy'.split()
    for o in table.itertuples():
        paths = pd.read_csv(written.out/o.loss/o.prune/f'noisy{o.noise}_train_predictions.csv').path
        wrong = train[f'noisy_labels_{o.noise}'] != train.noisy_labels_0
        expected = precision_recall_fscore_support(wrong, train.path.isin(paths), average='binary')[:3]
        assert (o.precision, o.recall, o.f1) == pytest.approx(expected) and o.planted == wrong.sum()
    pd.testing.assert_frame_equal(pd.read_csv(written.out/'experiments.csv'), table)


def test_accuracy_in_the_table_is_that_of_the_saved_weights(written):
    row = written.table.iloc[0]
    learn = imagenette_learner(int(row.noise), 'xresnet18', 32, row.loss == LOSSES[0], False, path=written.path, bs=16,
                               num_workers=0)
    file = written.out/'runs'/row.loss/f'noisy{row.noise}'/'weights.pth'
    learn.model.load_state_dict(torch.load(file, weights_only=True))
    assert learn.validate()[1] == pytest.approx(row.accuracy)


def test_second_run_makes_nothing_anew_but_what_is_missing(script, written, monkeypatch):
    files = {o: o.stat().st_mtime_ns for o in written.out.rglob('*') if o.is_file() and o.name != 'experiments.csv'}
    gone = written.out/LOSSES[0]/PRUNES[1]/'noisy50_train_predictions.csv'
    text = gone.read_text()
    gone.unlink()
    monkeypatch.setattr('fastai.learner.Learner.fit', None)
    table = script(path=written.path, out=written.out, noise='25,50')
    assert gone.read_text() == text and table.equals(written.table)
    assert all(o.stat().st_mtime_ns == at for o, at in files.items() if o != gone)


def test_script_ends_with_the_sentence_of_what_cannot_be_had(script, written, serve, tmp_path):
    serve(url=f'http://127.0.0.1:9/{NAME}.tgz')
    with pytest.raises(SystemExit, match=f'127.0.0.1:9/{NAME}.tgz could not be downloaded'): script(out=tmp_path/'out')
    with pytest.raises(SystemExit, match='arch xresnet34 has no published weights'):
        script(path=written.path, out=tmp_path/'out', arch='xresnet34', scratch=False)
    (tmp_path/'noisy_imagenette.csv').write_bytes((written.path/'noisy_imagenette.csv').read_bytes())
    with pytest.raises(SystemExit, match='300 of 300 images'): script(path=tmp_path, out=tmp_path/'out')


def test_other_settings_or_missing_steps_are_named(script, written, tmp_path):
    with pytest.raises(SystemExit, match='holds a fit with epochs 1, not 2: choose another --out, or --overwrite'):
        script(path=written.path, out=written.out, noise='25', epochs=2)
    for steps in ('eval', 'predict'):
        with pytest.raises(SystemExit, match='weights.pth is not there: run the step train first'):
            script(path=written.path, out=tmp_path, noise='5', steps=steps)
    for kwargs, match in ((dict(noise='7'), '--noise 7: give some of 1,5,25,50'), (dict(steps='fly'), '--steps fly'),
                          (dict(prune='none'), '--prune none'), (dict(smoothing='some'), '--smoothing some')):
        with pytest.raises(SystemExit, match=match): script(path=written.path, out=tmp_path, **kwargs)


def test_gradual_unfreezing_with_wandb_finds_the_planted_errors(script, written, tmp_path, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    monkeypatch.setenv('WANDB_DIR', str(tmp_path))
    wandb.teardown()
    table = script(path=written.path, out=tmp_path/'out', noise='25', smoothing='no', prune=PRUNES[0], epochs=2,
                   unfreeze=True, wandb=True)
    row = table.iloc[0]
    assert len(table) == 1 and row.precision > .7 and row.recall > .7 and row.accuracy > .7, 'chance: .25, .1'
    assert list(tmp_path.glob('wandb/offline-run-*'))
    wandb.teardown()


def test_script_makes_the_published_table_of_the_seeds_own_files(functions):
    table = functions['table_of'](DATA/'seed_outputs', DATA/'noisy_imagenette.csv')
    assert table.f1.round(3).tolist() == [.390, .273, .918, .912, .946, .919, .954, .943, .937, .925, .937, .926]
    assert table.accuracy.isna().all()
