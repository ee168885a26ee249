"examples/seed_data.py: the data directory of the seed, from small data in the true layout"
import csv
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import tweet
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support
from torch import nn

SCRIPT = Path(__file__).parents[1]/'examples/seed_data.py'
pytestmark = pytest.mark.slow
SHARED = Path(__file__).parents[2]/'shared/data'
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(SCRIPT.parent)
    ns = runpy.run_path(str(SCRIPT))
main = ns['main']
score_table = ns['score_table']
csv_path = ns['csv_path']
read_tweets = ns['read_tweets']
shared = pytest.mark.skipif(not SHARED.exists(), reason=f'{SHARED} is not here')

LABELS = [f'noisy_labels_{o}' for o in (0, 1, 5, 25, 50)]
CLASSES = ['n01440764', 'n02102040', 'n02979186']
LOSSES = ['imagenette_labelsmoothing', 'imagenette_no_labelsmoothing']
PRUNES = ['prune_noise_rate', 'prune_noise_rate_class']


def tiny(pretrained=False):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 10))


TINY = dict(arch=tiny, size=32, epochs=1, n_folds=2, bs=16, num_workers=0)


@pytest.fixture(scope='module')
def imagenette(tmp_path_factory):
    "A folder in Imagenette's layout: 48 training and 12 validation images of 3 classes, told apart by their colour"
    root, rng, rows = tmp_path_factory.mktemp('imagenette'), np.random.default_rng(0), []
    for i in range(60):
        true, split = i % 3, 'train' if i < 48 else 'val'
        name = f'{split}/{CLASSES[true]}/{CLASSES[true]}_{9036 + i}.JPEG'
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 60, (40, 50, 3))
        pixels[..., true] += 180
        Image.fromarray(pixels.astype('uint8')).save(root/name, quality=95)
        noisy = [(true + (split == 'train' and rng.random() < o/100)) % 3 for o in (0, 1, 5, 25, 50)]
        rows.append((name, *(CLASSES[o] for o in noisy), split == 'val'))
    pd.DataFrame(rows, columns=['path', *LABELS, 'is_valid']).to_csv(root/'noisy_imagenette.csv', index=False)
    return root


@pytest.fixture(scope='module')
def written(imagenette, tmp_path_factory):
    out = tmp_path_factory.mktemp('out')
    return out, main(imagenette=imagenette, out=out, noise='25,50', **TINY)[0]


def test_imagenette_writes_the_seeds_tree_with_its_columns(imagenette, written):
    out, _ = written
    expected = {f'{loss}/{prune}/noisy{level}_train_predictions.csv'
                for loss in LOSSES for prune in PRUNES for level in (25, 50)}
    assert {o.relative_to(out).as_posix() for o in out.rglob('*') if o.is_file()} == expected
    truth = pd.read_csv(imagenette/'noisy_imagenette.csv')
    for name in expected:
        df = pd.read_csv(out/name)
        assert list(df.columns) == ['path', *LABELS, 'is_valid', 'given', 'predicted', 'confidence',
                                    'label_quality', 'is_issue', 'id']
        assert not df.is_valid.any() and df.predicted.isin(CLASSES).all() and df.confidence.between(1/3, 1).all()
        pd.testing.assert_frame_equal(df[truth.columns], df[['path']].merge(truth, how='left'), check_dtype=False)


def test_both_filters_use_the_probabilities_of_one_fit(written):
    out, _ = written
    for loss in LOSSES:
        rate, both = (pd.read_csv(csv_path(out, loss, o, 50)) for o in PRUNES)
        assert len(rate) > 0
        pd.testing.assert_frame_equal(both, rate[rate.path.isin(both.path)].reset_index(drop=True), check_dtype=False)


def test_table_of_the_written_files_agrees_with_scikit_learn(imagenette, written):
    out, table = written
    train = pd.read_csv(imagenette/'noisy_imagenette.csv').query('not is_valid')
    assert len(table) == 8
    for o in table.itertuples():
        paths = pd.read_csv(out/o.loss/o.prune/f'noisy{o.noise}_train_predictions.csv').path
        wrong = train[f'noisy_labels_{o.noise}'] != train.noisy_labels_0
        expected = precision_recall_fscore_support(wrong, train.path.isin(paths), average='binary',
                                                   zero_division=np.nan)[:3]
        assert (o.planted, o.flagged) == (wrong.sum(), len(paths))
        assert (o.precision, o.recall) == pytest.approx(expected[:2], nan_ok=True)
        assert o.f1 == pytest.approx(2*o.found/(o.planted + o.flagged))


def test_resumed_run_keeps_what_is_there_and_fits_what_is_missing(imagenette, written, tmp_path, capsys):
    kept, missing = (csv_path(tmp_path, LOSSES[0], o, 50) for o in PRUNES)
    for file in (kept, csv_path(tmp_path, LOSSES[1], PRUNES[0], 50), csv_path(tmp_path, LOSSES[1], PRUNES[1], 50)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('path\n')
    table, figures = main(imagenette=imagenette, out=tmp_path, noise='50', **TINY)
    fits = [o for o in capsys.readouterr().out.splitlines() if o.endswith('% noise')]
    assert fits == ['imagenette_labelsmoothing, 50 % noise'] and figures is None
    assert kept.read_text() == 'path\n' and missing.read_text() == csv_path(written[0], *LOSSES[:1], PRUNES[1],
                                                                            50).read_text()
    empty = table[table.loss == LOSSES[1]]
    assert (empty.flagged == 0).all() and empty.precision.isna().all() and (empty.recall == 0).all()


def test_overwrite_makes_files_anew_with_a_named_architecture(imagenette, tmp_path):
    for loss in LOSSES:
        for prune in PRUNES:
            file = csv_path(tmp_path, loss, prune, 50)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text('path\n')
    table, _ = main(imagenette=imagenette, out=tmp_path, noise='50', overwrite=True,
                    **TINY | dict(arch='xresnet18'))
    assert all(len(o.read_text()) > 50 for o in tmp_path.rglob('*.csv')) and len(table) == 4


def test_no_data_set_given_exits_with_what_to_pass(tmp_path):
    with pytest.raises(SystemExit, match='pass --imagenette DIR, --tweets DIR or both'): main(out=tmp_path)


@pytest.mark.parametrize('change, match', [
    (lambda o: (o/'noisy_imagenette.csv').unlink(), 'noisy_imagenette.csv is not there'),
    (lambda o: (o/'noisy_imagenette.csv').write_text('path,noisy_labels_0\n'), 'lacks the column is_valid and noisy_l'),
    (lambda o: (o/'noisy_imagenette.csv').write_text(f'path,{",".join(LABELS)},is_valid\na.JPEG,x,x,x,x,x,False\n'),
     '1 of 1 images are not there, first .*a.JPEG')])
def test_missing_image_data_is_named(change, match, tmp_path):
    (tmp_path/'noisy_imagenette.csv').touch()
    change(tmp_path)
    with pytest.raises(SystemExit, match=match): main(imagenette=tmp_path, out=tmp_path/'out')


@pytest.mark.parametrize('kwargs, match', [(dict(noise='5,7'), '--noise 5,7'), (dict(noise=''), '--noise '),
                                           (dict(arch='resnet99'), '--arch resnet99'),
                                           (dict(arch='__name__'), '--arch __name__')])
def test_unknown_choice_exits_with_the_choices(kwargs, match, imagenette, tmp_path):
    with pytest.raises(SystemExit, match=match): main(imagenette=imagenette, out=tmp_path, **TINY | kwargs)


def test_table_without_files_or_with_foreign_rows_exits(imagenette, tmp_path):
    truth, file = imagenette/'noisy_imagenette.csv', csv_path(tmp_path, LOSSES[0], PRUNES[0], 5)
    with pytest.raises(SystemExit, match='noisy5_train_predictions.csv is not there'): score_table(tmp_path, truth)
    file.parent.mkdir(parents=True)
    rows = pd.read_csv(truth)
    for paths in (['train/other.JPEG'], rows.path[:1].tolist()*2, rows.path[rows.is_valid].tolist()):
        pd.DataFrame({'path': paths}).to_csv(file, index=False)
        with pytest.raises(SystemExit, match='no training rows'): score_table(tmp_path, truth)


@shared
def test_table_of_the_seeds_own_files_is_the_published_one():
    data = SHARED/'noisy_imagenette'
    table = score_table(data/'seed_outputs', data/'noisy_imagenette.csv')
    found = {(o.noise, o.loss, o.prune): (round(o.precision, 3), round(o.recall, 3), round(o.f1, 3))
             for o in table.itertuples()}
    smooth, plain, rate, both = *LOSSES, *PRUNES
    assert found == {
        (5, smooth, rate): (.991, .243, .390), (5, smooth, both): (1., .158, .273),
        (5, plain, rate): (.965, .876, .918), (5, plain, both): (.990, .846, .912),
        (25, smooth, rate): (.988, .908, .946), (25, smooth, both): (.998, .852, .919),
        (25, plain, rate): (.987, .924, .954), (25, plain, both): (.993, .897, .943),
        (50, smooth, rate): (.990, .890, .937), (50, smooth, both): (.992, .866, .925),
        (50, plain, rate): (.989, .889, .937), (50, plain, both): (.991, .868, .926)}
    assert table.groupby('noise').planted.unique().str[0].to_dict() == {5: 474, 25: 2368, 50: 4735}


@pytest.fixture(scope='module')
def tweets(tmp_path_factory):
    "200 tweets in three files; train.tsv has a header, and test.tsv a wrong label in every fifth line"
    root, names = tmp_path_factory.mktemp('tweets'), ['INFORMATIVE', 'UNINFORMATIVE']
    for name, start, end in (('train', 0, 160), ('valid', 160, 170), ('test', 170, 200)):
        lines = ['Id\tText\tLabel'] if name == 'train' else []
        for i in range(start, end):
            given = names[(i + (name == 'test' and i % 5 == 0)) % 2]
            lines.append(f'124{i:016}\t{tweet(i, names[i % 2])}\t{given}')
        (root/f'{name}.tsv').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return root


def test_tweets_file_has_the_seeds_layout_and_the_original_text(tweets, tmp_path):
    table, res = main(tweets=tweets, out=tmp_path, epochs=4, n_hid=32, bs=16, lr=2e-2)
    file = tmp_path/'covid/noisy/noisy_text.csv'
    test = read_tweets(tweets/'test.tsv')
    with open(file, encoding='utf-8', newline='') as f: rows = list(csv.reader(f))
    assert table is None and res['items'] == 30 and res['flagged'] == len(rows) > 0 and res['accuracy'] == 1
    assert {int(o[0]) for o in rows} == {0, 5, 10, 15, 20, 25}, 'the wrong labels and no others'
    for position, id, text, label, hashtags, prediction, confidence in rows:
        assert [id, text, label] == test.iloc[int(position)].tolist() and prediction != label
        assert hashtags == ('COVID-19, Stay' if int(text[1:].split()[0]) // 2 % 2 else 'NA')
        assert .5 < float(confidence) <= 1
    assert list(tmp_path.rglob('.*')) == [], 'no temporary file is left'


def test_tweets_file_that_is_there_is_kept(tweets, tmp_path):
    file = tmp_path/'covid/noisy/noisy_text.csv'
    file.parent.mkdir(parents=True)
    file.write_text('kept')
    assert main(tweets=tweets, out=tmp_path) == (None, {}) and file.read_text() == 'kept'


def test_missing_or_malformed_tweets_are_named(tweets, tmp_path):
    for name in ('train', 'valid', 'test'):
        with pytest.raises(SystemExit, match=f'{name}.tsv is not there'): main(tweets=tmp_path, out=tmp_path/'out')
        (tmp_path/f'{name}.tsv').write_bytes((tweets/f'{name}.tsv').read_bytes())
    with open(tmp_path/'test.tsv', 'a') as f: f.write('1\thello\tNO_SUCH\n')
    with pytest.raises(SystemExit, match="'NO_SUCH', which train.tsv lacks"): main(tweets=tmp_path, out=tmp_path/'out')
    with open(tmp_path/'test.tsv', 'a') as f: f.write('1\thello\n')
    with pytest.raises(SystemExit, match='line 32 has 2 columns'): main(tweets=tmp_path, out=tmp_path/'out')


@shared
def test_published_tweets_are_read_whole_and_their_hashtags_are_the_seeds():
    folder = SHARED/'covid_tweets'
    train, valid, test = (read_tweets(folder/f'{o}.tsv') for o in ('train', 'valid', 'test'))
    assert (len(train), len(valid), len(test)) == (7000, 1000, 2000)
    with open(folder/'seed_noisy_text.csv', encoding='utf-8', newline='') as f: seed = list(csv.reader(f))
    flagged = [int(o[0]) for o in seed]
    issues = pd.DataFrame({'is_issue': True, 'predicted': [o[5] for o in seed], 'confidence': [o[6] for o in seed]},
                          index=flagged)
    rows = ns['tweet_rows'](test, issues).reset_index().to_numpy(dtype=str).tolist()
    assert [o[:2] + o[3:] for o in rows] == [o[:2] + o[3:] for o in seed], 'all but the text, which the seed cleaned'
