"""The notebooks of examples/ are clean, and run on small data that is made here.

    python tests/e2e/test_notebooks.py [--model FOLDER]      executes them on that data and keeps them with the outputs
"""
import colorsys
import itertools
import json
import os
import tempfile
from base64 import b64decode, b64encode
from functools import cache
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from fastcore.script import call_parse
from nbclient import NotebookClient
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedTokenizerFast

EXAMPLES = Path(__file__).parents[2]/'examples'
pytestmark = pytest.mark.slow
LEVELS = 1, 5, 25, 50
CARTOONS = {  # class of Imagenette -> shapes on a square of side 1: kind, corners, shade from 0, the paper, to 1, ink
    'n01440764': [('ellipse', (.1, .3, .75, .7), 1), ('polygon', (.65, .5, .92, .28, .92, .72), 1),
                  ('ellipse', (.2, .42, .28, .5), 0)],
    'n02102040': [('ellipse', (.28, .2, .72, .8), 1), ('ellipse', (.12, .22, .34, .7), .6),
                  ('ellipse', (.66, .22, .88, .7), .6), ('ellipse', (.42, .55, .58, .68), 0)],
    'n02979186': [('rectangle', (.08, .28, .92, .75), 1), ('ellipse', (.15, .38, .42, .65), 0),
                  ('ellipse', (.58, .38, .85, .65), 0)],
    'n03000684': [('rectangle', (.05, .4, .42, .75), 1), ('rectangle', (.42, .5, .95, .65), .5),
                  ('ellipse', (.12, .48, .32, .68), 0)],
    'n03028079': [('polygon', (.25, .5, .5, .25, .75, .5), .6), ('rectangle', (.28, .5, .72, .92), 1),
                  ('rectangle', (.47, .03, .53, .27), 1), ('rectangle', (.4, .09, .6, .15), 1),
                  ('rectangle', (.43, .68, .57, .92), 0)],
    'n03394916': [('ellipse', (.15, .15, .75, .75), 1), ('ellipse', (.28, .28, .62, .62), 0),
                  ('polygon', (.6, .6, .95, .65, .65, .95), 1)],
    'n03417042': [('rectangle', (.05, .25, .62, .72), 1), ('rectangle', (.64, .42, .92, .72), .6),
                  ('ellipse', (.12, .64, .32, .84), 0), ('ellipse', (.66, .64, .86, .84), 0)],
    'n03425413': [('rectangle', (.25, .12, .65, .9), 1), ('rectangle', (.33, .2, .57, .4), 0),
                  ('rectangle', (.72, .3, .8, .75), .7)],
    'n03445777': [('ellipse', (.2, .2, .8, .8), 1), *(('ellipse', (x, y, x + .07, y + .07), .7)
                                                      for x in (.33, .47, .6) for y in (.33, .47, .6))],
    'n03888257': [('ellipse', (.1, .1, .9, .8), 1), ('rectangle', (.1, .46, .9, .8), 0),
                  ('polygon', (.12, .45, .5, .9, .48, .92), .6), ('polygon', (.88, .45, .5, .9, .52, .92), .6),
                  ('ellipse', (.44, .82, .56, .95), .8)]}
NAMES = 'INFORMATIVE', 'UNINFORMATIVE'
PLACES = 'Italy Lagos Ohio Kerala Madrid Leeds Texas Osaka Peru Milan Quebec Nairobi Wuhan Sydney Iran Boston'.split()
PARTS = {  # class -> what its tweets are put together from
    NAMES[0]: ['{p} reports|{p} confirms|officials in {p} announce|breaking: {p} records|health ministry of {p}:|'
               'update from {p}:', '{n} new cases|{n} more infections|{n} people positive|a total of {n} patients|'
               '{n} fresh diagnoses', 'and {k} deaths|{k} died|{k} fatalities so far|{k} in intensive care|'
               '{k} recovered and left hospital'],
    NAMES[1]: ['day {k} at home in {p} and|thinking of {p} today,|nobody in {p} told me that|so tired of {p},|'
               'my aunt in {p} says|dear {p},', 'this virus ruined my birthday|I miss the {n} gigs we had|'
               'I baked {k} loaves again|wash your hands, folks|{n} memes and no toilet paper',
               'stay strong|lol|why is it always us|love you all|somebody send coffee|I cannot even']}
TAILS = '', '#COVID19', '#coronavirus HTTPURL', '@USER', '#StayHome &amp; pray', 'HTTPURL'
HOSTILE = ("<img src=x onerror=alert('tweet')> [click](javascript:alert(1)) $\\frac{1}{0}$ "
           '<script>document.body.remove()</script> stay strong')
WRONG = 0, 1, 20, 31, 50, 61, 80, 101, 120, 131, 160, 181  # Tweets of test.tsv


def cartoon(name, rng, side=64):
    "A picture of a class of Imagenette, in about its own colour, turned a little"
    paper, hue = rng.integers(200, 256, 3), (list(CARTOONS).index(name)/10 + rng.normal(0, .15)) % 1
    ink = 180*np.array(colorsys.hsv_to_rgb(hue, .9, 1))
    image = Image.new('RGB', (side, side), tuple(map(int, paper)))
    for kind, corners, shade in CARTOONS[name]:
        fill = tuple(map(int, shade*ink + (1 - shade)*paper))
        getattr(ImageDraw.Draw(image), kind)((np.array(corners)*side).tolist(), fill=fill)
    return image.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, fillcolor=tuple(map(int, paper)))


def write_imagenette(root, n_train=40, n_valid=20):
    "A folder as fastai's archive of Imagenette: images a class, and the CSV of their noisy labels"
    rng, classes, rows = np.random.default_rng(0), list(CARTOONS), []
    for name, i in itertools.product(classes, range(n_train + n_valid)):
        file = root/('train' if i < n_train else 'val')/name/f'{name}_{i}.JPEG'
        file.parent.mkdir(parents=True, exist_ok=True)
        cartoon(name, rng).save(file, quality=90)
        rows.append((file.relative_to(root).as_posix(), name, i >= n_train))
    df = pd.DataFrame(rows, columns=['path', 'noisy_labels_0', 'is_valid'])
    train = np.flatnonzero(~df.is_valid)
    for level in LEVELS:
        codes = np.array([classes.index(o) for o in df.noisy_labels_0])
        wrong = rng.choice(train, round(level/100*len(train)), replace=False)
        codes[wrong] = (codes[wrong] + rng.integers(1, 10, len(wrong))) % 10
        df[f'noisy_labels_{level}'] = [classes[o] for o in codes]
    df.to_csv(root/'noisy_imagenette.csv', index=False)


def write_mnist(root, n_train=600, n_valid=200):
    "scikit-learn's handwritten digits in the layout of fastai's MNIST"
    digits = load_digits()
    for i in range(n_train + n_valid):
        file = root/('training' if i < n_train else 'testing')/str(digits.target[i])/f'{i:04}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i]*15.9).astype('uint8')).resize((28, 28)).save(file)


def tweet(name, rng):
    "One of a few thousand invented tweets of a class"
    words = ' '.join(rng.choice(o.split('|')) for o in PARTS[name])
    words = words.format(p=rng.choice(PLACES), n=rng.integers(2, 900), k=rng.integers(2, 60))
    return f'{words} {rng.choice(TAILS)}'.strip()


def write_tweets(root, sizes=(700, 100, 200)):
    "train.tsv, valid.tsv and test.tsv of invented tweets; in test.tsv WRONG labels are wrong, and one tweet is hostile"
    rng = np.random.default_rng(0)
    for file, n in zip(('train', 'valid', 'test'), sizes):
        labels = [NAMES[i % 2] for i in range(n)]
        texts = [tweet(o, rng) for o in labels]
        if file == 'test':
            texts[1] = HOSTILE
            for i in WRONG: labels[i] = NAMES[1 - NAMES.index(labels[i])]
        lines = [f'124{file}{i:05}\t{text}\t{label}' for i, (text, label) in enumerate(zip(texts, labels))]
        (root/f'{file}.tsv').write_text('\n'.join(['Id\tText\tLabel', *lines]) + '\n', encoding='utf-8')


def write_model(root, tweets):
    "A small transformer with random weights, and a tokenizer trained on the tweets, as a Hugging Face folder"
    tok, special = Tokenizer(models.WordPiece(unk_token='[UNK]')), ['[UNK]', '[PAD]', '[CLS]', '[SEP]', '[MASK]']
    tok.normalizer, tok.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    lines = (tweets/'train.tsv').read_text(encoding='utf-8').splitlines()
    tok.train_from_iterator(lines, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special,
                                                             show_progress=False))
    tok.post_processor = processors.BertProcessing(('[SEP]', 3), ('[CLS]', 2))
    names = dict(zip(('unk_token', 'pad_token', 'cls_token', 'sep_token', 'mask_token'), special))
    PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=64, **names).save_pretrained(root)
    config = BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
                        intermediate_size=48, max_position_embeddings=64, hidden_dropout_prob=0.,
                        attention_probs_dropout_prob=0., initializer_range=.2)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(root)


SETTINGS = {
    '01_noisy_imagenette': dict(arch='small', pretrained=False, size=32, bs=32, epochs=8, lr=1e-2, n_folds=2,
                                n_review=120, num_workers=0),
    '02_mnist_label_smoothing': dict(epochs=5, bs=32, n_folds=2, seeds=1, num_workers=0),
    '03_covid_tweets': dict(n_folds=2, bs=16, n_hid=32, awd_epochs=4, awd_lr=2e-2, epochs=5, lr=3e-3),
    '04_clean_interpretation': dict(n=1400, epochs=10, n_folds=2, bs=32)}
FIGURES = {  # of what the cells computed
    '01_noisy_imagenette': 'auprc=auprc, wrong=wrong.mean(), left=left/wrong.sum(), review=p.n_review, '
                           'accuracy=[o.recorder.values[-1][-1] for o in again.values()]',
    '02_mnist_label_smoothing': 'auprc=table.auprc.min(), wrong=wrong.mean(), precision=table.precision.min(), '
                                'recall=table.recall.min(), '
                                'confidence=summary.confidence.to_list(), accuracy=table.accuracy_valid.min()',
    '03_covid_tweets': 'auprc=table.auprc.to_list(), wrong=wrong.mean(), f1=table.f1_valid.min(), f1_test=f1, '
                       'flagged=interp.noisy_idxs().tolist(), report=[page.count(o) for o in ("<script", "&lt;img")]',
    '04_clean_interpretation': 'auprc=auprc, wrong=wrong.mean(), pairs=sets.worst_pairs.to_list(), truly=truly, '
                               'values=figures.value[figures.metric == "accuracy"].to_list()'}


def make_data(name, root, *more):
    "Settings of a notebook for the small data, which are written to `root`"
    if name.startswith('04'): return {}
    write = {'01': write_imagenette, '02': write_mnist, '03': write_tweets}[name[:2]]
    (root/'data').mkdir()
    write(root/'data', *more)
    if not name.startswith('03'): return dict(path=str(root/'data'))
    write_model(root/'model', root/'data')
    return dict(path=str(root/'data'), model=str(root/'model'))


def execute(name, root, *more, **settings):
    "The notebook, executed in `root` on small data, and what `FIGURES` makes of it"
    nb = nbformat.read(EXAMPLES/f'{name}.ipynb', 4)
    nb.cells.append(nbformat.v4.new_code_cell(f'print(json.dumps(dict({FIGURES[name]}), default=float))'))
    settings = SETTINGS[name] | make_data(name, root, *more) | settings
    env = {**os.environ, 'NOTEBOOK_SETTINGS': json.dumps(settings), 'FASTAI_HOME': str(root/'fastai'),
           'HF_HUB_OFFLINE': '1', 'PYTHONWARNINGS': 'ignore::FutureWarning', 'OMP_NUM_THREADS': '1'}
    client = NotebookClient(nb, timeout=600, record_timing=False, resources={'metadata': {'path': str(root)}})
    client.execute(env=env)
    return nb, json.loads(nb.cells.pop().outputs[0].text)


def shrink(output):
    "A picture with 128 colours, which is a third of the size"
    if 'image/png' not in output.get('data', {}): return
    small = BytesIO()
    picture = Image.open(BytesIO(b64decode(output.data['image/png']))).convert('RGB')
    picture.quantize(128).save(small, 'png', optimize=True)
    output.data['image/png'] = b64encode(small.getvalue()).decode()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "Executes a notebook, once"
    @cache
    def executed(name): return execute(name, tmp_path_factory.mktemp('nb'))
    return executed


@pytest.mark.parametrize('name', SETTINGS)
def test_committed_notebook_is_small_clean_and_in_order(name):
    file = EXAMPLES/f'{name}.ipynb'
    text, nb = file.read_text(encoding='utf-8'), nbformat.read(file, 4)
    code = [o for o in nb.cells if o.cell_type == 'code']
    outputs = [o for cell in code for o in cell.outputs]
    assert len(text) < 300_000 and [o.execution_count for o in code] == [*range(1, len(code) + 1)]
    assert any('image/png' in o.get('data', {}) for o in outputs)
    assert not [o for o in outputs if o.output_type == 'error' or o.get('name') == 'stderr']
    shown = json.dumps([{k: v for k, v in o.get('data', {'text/plain': o.get('text')}).items() if k != 'image/png'}
                        for o in outputs])
    assert not [o for o in ('/tmp/', '/work', '/home', '/root', 'TODO') if o in shown or o in text]


def test_imagenette_story_finds_what_was_planted_and_a_review_helps(run):
    _, o = run('01_noisy_imagenette')
    assert o['wrong'] == .25 and o['auprc'] > .6 and o['left'] < .6
    plain, reviewed, _ = o['accuracy']
    assert reviewed > plain > .5, 'chance: .1'


def test_mnist_story_finds_planted_errors_with_both_losses(run):
    _, o = run('02_mnist_label_smoothing')
    assert o['auprc'] > .8 > 3*o['wrong'] and min(o['precision'], o['recall']) > .5 and o['accuracy'] > .8


def test_tweets_story_finds_planted_errors_and_what_is_wrong_in_the_test_set(run):
    nb, o = run('03_covid_tweets')
    assert min(o['auprc']) > .5 > 3*o['wrong'] and o['f1'] > .85 and o['f1_test'] > .8
    assert len({*WRONG} & {*o['flagged']}) >= 6 and o['report'][0] == 0 and o['report'][1] > 0
    shown = [x for c in nb.cells if c.cell_type == 'code' for x in c.outputs if 'text/html' in x.get('data', {})]
    assert not [x for x in shown if 'onerror' in x.data['text/html']]


def test_interpretation_story_names_the_pairs_that_were_planted(run):
    _, o = run('04_clean_interpretation')
    assert o['auprc'] > .6 > 3*o['wrong'] and '7 → 1' in o['pairs'][0] and '8 → 3' in o['pairs'][0]


@call_parse
def main(
    model: Path = None,  # Folder of a transformer for notebook 03; left out: one with random weights
):
    "Execute every notebook and keep it with its outputs"
    for name in SETTINGS:
        sizes, more = [], {}
        if model and name.startswith('03'):
            sizes, more = [(300, 100, 200)], dict(model=str(model), epochs=3, lr=2e-4, awd_epochs=6)
        with tempfile.TemporaryDirectory() as root: nb, figures = execute(name, Path(root), *sizes, **more)
        for output in (o for cell in nb.cells for o in cell.get('outputs', [])): shrink(output)
        nb.metadata = {'kernelspec': nb.metadata.kernelspec, 'language_info': {'name': 'python'}}
        nbformat.write(nb, EXAMPLES/f'{name}.ipynb')
        print(name, figures)
