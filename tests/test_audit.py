"The audit against Datalab and cleanvision called directly, and on planted problems"
import builtins
import warnings

import numpy as np
import pandas as pd
import pytest
from cleanlab import Datalab
from PIL import Image, ImageFilter

from fastai_clean.issues import audit, find_multilabel_issues, find_regression_issues


def case(seed=0, n=60, c=3, task='classification'):
    "Labels, predictions and features; those of item 3 point away from all others, those of 8 and 9 are the same"
    rng = np.random.default_rng(seed)
    features = 3 + rng.normal(size=(n, 5))
    features[3], features[9] = -3, features[8]
    if task == 'regression':
        labels = rng.normal(size=n)
        return labels, labels + .1*rng.normal(size=n), features
    if task == 'multilabel': return (rng.random((n, c)) < .4).astype(int), rng.random((n, c)), features
    labels = rng.permutation(np.arange(n) % c)
    probs = rng.dirichlet([1.]*c, n) + np.eye(c)[labels]
    return labels, probs/probs.sum(1, keepdims=True), features


def direct(labels, pred_probs, features, types, task='classification'):
    if task == 'multilabel': labels = [np.flatnonzero(row).tolist() for row in labels]
    lab = Datalab({'y': labels}, label_name='y', task=task, verbosity=0)
    lab.find_issues(pred_probs=pred_probs, features=features, issue_types={name: {} for name in types})
    return lab


def summary(df): return {o['issue_type']: o['num_issues'] for o in df.attrs['summary']}


@pytest.mark.parametrize('task, given', [
    ('classification', 'lpf'), ('classification', 'lp'), ('classification', 'lf'), ('classification', 'l'),
    ('multilabel', 'lpf'), ('multilabel', 'lp'), ('multilabel', 'lf'), ('regression', 'lpf'), ('regression', 'lp')])
def test_columns_and_summary_equal_datalab(task, given, capfd):
    labels, pred_probs, features = case(task=task)
    pred_probs, features = pred_probs if 'p' in given else None, features if 'f' in given else None
    types = ['label']*('p' in given) + ['outlier', 'near_duplicate', 'non_iid']*('f' in given)
    if task == 'classification': types += ['outlier', 'non_iid']*(given == 'lp') + ['class_imbalance']
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        df = audit(labels, pred_probs, features, task=task)
    assert capfd.readouterr() == ('', '')
    lab = direct(labels, pred_probs, features, types, task)
    sets = df.pop('near_duplicate_sets') if 'f' in given else None
    pd.testing.assert_frame_equal(df[lab.issues.columns], lab.issues.rename_axis('position'), check_index_type=False)
    assert set(df.columns) == set(lab.issues.columns) and df.index.name == 'position'
    expected = lab.issue_summary.set_index('issue_type')
    got = pd.DataFrame(df.attrs['summary']).set_index('issue_type').loc[expected.index, expected.columns]
    pd.testing.assert_frame_equal(got, expected, check_index_type=False)
    if sets is not None:
        assert sets.tolist() == [tuple(o) for o in lab.get_issues('near_duplicate').near_duplicate_sets]


@pytest.mark.parametrize('task', ['classification', 'multilabel', 'regression'])
def test_planted_outlier_and_duplicates_are_found(task):
    df = audit(*case(task=task), task=task)
    assert df.outlier_score.idxmin() == 3 and df.is_outlier_issue[3] and df.is_outlier_issue.sum() <= 2
    assert list(df.index[df.is_near_duplicate_issue]) == [8, 9]
    assert df.near_duplicate_sets[8] == (9,) and df.near_duplicate_sets[9] == (8,) and df.near_duplicate_sets[0] == ()
    assert summary(df)['near_duplicate'] == 2


def test_rare_class_and_wrong_label_are_found():
    labels, probs, _ = case(n=90)
    labels[:], labels[:30], labels[40] = 0, 1, 2
    probs = .9*np.eye(3)[labels] + .1/3
    probs[50] = [.01, .98, .01]
    df = audit(labels, probs)
    assert list(df.index[df.is_class_imbalance_issue]) == [40]
    assert list(df.index[df.is_label_issue]) == [50] == [df.label_score.idxmin()]


def test_sorted_features_are_not_iid():
    labels, _, features = case(n=200)
    score = lambda x: {o['issue_type']: o['score'] for o in audit(labels, features=x).attrs['summary']}['non_iid']
    assert score(features[features[:, 0].argsort()]*[5, 1, 1, 1, 1]) < .05 < score(features)


def test_class_without_items_shifts_no_other():
    labels, probs, _ = case(c=4)
    labels = np.where(labels == 1, 0, labels)
    df = audit(labels, probs)
    assert np.array_equal(df.label_score, probs[np.arange(60), labels])
    labels[:] = 0
    labels[7] = 3
    assert list(audit(labels, probs).query('is_class_imbalance_issue').index) == [7]


def test_multilabel_class_given_to_no_item_shifts_no_other():
    labels, probs, _ = case(c=4, task='multilabel')
    labels[:, 1] = 0
    df, expected = audit(labels, probs, task='multilabel'), find_multilabel_issues(labels, probs).sort_index()
    assert np.array_equal(df.label_score, expected.label_quality)
    assert np.array_equal(df.is_label_issue, expected.is_issue)


def test_many_numbers_are_scored_by_residual():
    labels = np.random.default_rng(0).normal(size=10_001)
    df = audit(labels, labels[::-1], task='regression')
    assert np.array_equal(df.label_score, find_regression_issues(labels, labels[::-1]).sort_index().label_quality)


def test_label_names_are_looked_up_in_the_vocab():
    labels, probs, features = case()
    vocab = ['<b>', 'b c', '$a$']
    names = [vocab[i] for i in labels]
    pd.testing.assert_frame_equal(audit(names, probs, features, vocab=vocab), audit(labels, probs, features))
    pd.testing.assert_frame_equal(audit(names, vocab=vocab), audit(labels))
    pd.testing.assert_frame_equal(audit([f'class {i}' for i in labels]), audit(labels))


def test_few_items_are_compared_with_all_others():
    labels, probs, features = case(n=12)
    with pytest.warns(UserWarning, match='could not check for non_iid issues: The data appears to lie in a lower-dim'):
        df = audit(labels[4:], probs[4:], features[4:])
    assert list(df.index[df.is_near_duplicate_issue]) == [4, 5]


def test_issue_type_that_datalab_cannot_check_is_named_in_a_warning():
    labels, probs, features = case()
    with pytest.warns(UserWarning, match='could not check for label issues: Labels must contain at least 2 classes'):
        df = audit(labels*0, probs, features)
    assert 'is_label_issue' not in df and df.is_outlier_issue[3] and 'label' not in summary(df)


def test_random_state_and_inputs_stay_as_they_were():
    labels, probs, features = case()
    copies = labels.copy(), probs.copy(), features.copy()
    np.random.seed(5)
    expected = np.random.rand(3)
    np.random.seed(5)
    first = audit(labels, probs, features)
    assert np.array_equal(np.random.rand(3), expected)
    pd.testing.assert_frame_equal(audit(labels, probs, features), first)
    assert all(map(np.array_equal, copies, (labels, probs, features)))


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "Paths: 0-11 photographs, then the planted problems by name"
    root, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    paths = {}

    def save(name, pixels, suffix='png', **kwargs):
        paths[name] = root/f'{name}.{suffix}'
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels.astype('uint8'))
        image.save(paths[name], **kwargs)
        return image

    def scene():
        blocks = rng.integers(0, 255, (6, 6, 3)).repeat(16, 0).repeat(16, 1)
        return np.clip(blocks + rng.normal(0, 20, (96, 96, 3)), 0, 255)
    plain = [save(f'plain{i}', scene()) for i in range(12)]
    save('dark', scene()*.03)
    save('light', 250 + scene()*.02)
    save('blurry', plain[1].filter(ImageFilter.GaussianBlur(3)))
    save('copy', plain[2])
    near = np.array(plain[3])
    near[40, 40] = 0
    save('near', near)
    save('narrow', scene()[:, :12])
    save('gray', plain[4].convert('L'))
    save('gray alpha', plain[5].convert('LA'))
    save("a::b $x$ <i>;", plain[6].resize((70, 70)).rotate(90))
    for name, content in dict(broken=b'no image', cut=paths['plain0'].read_bytes()[:3000], empty=b'').items():
        paths[name] = root/f'{name}.png'
        paths[name].write_bytes(content)
    paths['lost'], paths['none'], paths['twice'] = root/'lost.png', None, paths['plain7']
    save('lab', plain[8].convert('LAB'), 'tif')
    return paths


@pytest.fixture(scope='module')
def image_audit(images):
    df = audit(np.arange(len(images)) % 2, paths=list(images.values()))
    return df, df.set_axis(list(images))


def test_planted_images_are_found(image_audit):
    _, df = image_audit
    for name in ('dark', 'light', 'blurry'):
        assert df[f'is_{name}_issue'][name] and not df[f'is_{name}_issue'].filter(like='plain').any()
    assert df.is_odd_aspect_ratio_issue['narrow']
    assert set(df.index[df.is_grayscale_issue]) == {'gray', 'gray alpha'}
    assert df.is_near_duplicates_issue[['plain3', 'near']].all()
    assert set(df.index[df.is_exact_duplicates_issue]) == {'plain2', 'copy', 'plain7', 'twice'}


def test_duplicates_are_named_by_position(image_audit, images):
    df, _ = image_audit
    position = list(images).index
    assert df.exact_duplicates_sets[position('copy')] == (2,) and df.exact_duplicates_sets[7] == (position('twice'),)
    assert df.near_duplicates_sets[3] == (position('near'),) and df.exact_duplicates_sets[0] == ()
    assert summary(df)['exact_duplicates'] == 4


def test_unreadable_images_are_named_and_flagged_nowhere(image_audit):
    _, df = image_audit
    bad = ['broken', 'cut', 'empty', 'lost', 'none']
    assert list(df.index[df.image_error.notna()]) == bad and df.image_error['none'] == 'no path'
    assert df.image_error['lost'].startswith('FileNotFoundError') and 'truncated' in df.image_error['cut']
    flags, scores = df.filter(regex='^is_(?!class)'), df.filter(regex='(?<!imbalance)_score$')
    assert flags.shape[1] == scores.shape[1] == 9 and set(map(str, flags.dtypes)) == {'bool'}
    assert not flags.loc[bad].any(axis=None) and scores.loc[bad].isna().all(axis=None)
    assert scores.drop(bad).notna().all(axis=None)


def test_image_columns_equal_cleanvision(image_audit, images, capfd):
    from cleanvision import Imagelab
    names = [*(f'plain{i}' for i in range(12)), 'dark', 'light', 'blurry', 'copy', 'narrow']
    paths = [str(images[name]) for name in names]
    lab = Imagelab(filepaths=paths, verbose=False)
    lab.find_issues(n_jobs=1, verbose=False)
    capfd.readouterr()
    df = audit(np.arange(len(names)) % 2, paths=paths, n_jobs=2)
    assert capfd.readouterr() == ('', '')
    for column in lab.issues: assert np.array_equal(df[column], lab.issues.loc[paths, column]), column


def test_without_a_readable_image_only_the_errors_are_told(images):
    df = audit([0, 1], paths=[images['broken'], None])
    assert list(df.filter(regex='image|dark')) == ['image_error'] and df.image_error.notna().all()


@pytest.mark.parametrize('missing, kw', [('cleanlab.datalab', {}), ('cleanvision', dict(paths=[None]*60))])
def test_without_the_extra_the_message_says_what_to_install(monkeypatch, missing, kw):
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name.startswith(missing): raise ModuleNotFoundError(f"No module named '{name}'")
        return real(name, *args, **kwargs)
    monkeypatch.setattr(builtins, '__import__', fake)
    with pytest.raises(ImportError, match=r"pip install 'fastai_clean\[audit\]'"): audit(*case(), **kw)


def test_without_paths_cleanvision_is_not_needed(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'cleanvision', None)
    assert audit(*case()).is_outlier_issue[3]


LABELS, PROBS, FEATURES = case()


@pytest.mark.parametrize('args, kw, error, match', [
    ((LABELS, PROBS), dict(task='segmentation'), ValueError, "task is 'segmentation': choose one of classification"),
    ((LABELS[:9], PROBS), {}, ValueError, r'labels has shape \(9,\), but pred_probs has 60 rows'),
    ((LABELS, PROBS*3), {}, ValueError, 'not logits'),
    ((LABELS[:0],), {}, ValueError, 'at least 1 item'),
    (([1, None],), {}, ValueError, '1 missing values'),
    ((['a', np.nan],), {}, ValueError, '1 missing values'),
    ((['a', 'c'],), dict(vocab=['a', 'b']), ValueError, '1 values outside the vocab, first at position 1'),
    ((LABELS, PROBS, FEATURES[:9]), {}, ValueError, 'features has 9 rows for 60 labels'),
    ((LABELS, PROBS, FEATURES*np.nan), {}, ValueError, 'features has NaN'),
    ((LABELS, PROBS, FEATURES[:, 0]), {}, ValueError, r'features has shape \(60,\)'),
    ((LABELS, PROBS), dict(paths=['a.png']), ValueError, 'paths has 1 files for 60 labels'),
    ((LABELS, PROBS), dict(task='multilabel'), ValueError, r'labels has shape \(60,\)'),
    ((LABELS, PROBS), dict(task='regression'), ValueError, 'predictions has 60 of 3'),
])
def test_bad_input_is_named(args, kw, error, match):
    with pytest.raises(error, match=match): audit(*args, **kw)
