"Fixtures of all tests: what every test starts from, and digits as image files"
import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from fastai.torch_core import set_seed
from helpers import DIGITS
from PIL import Image


@pytest.fixture(autouse=True)
def seeded():
    set_seed(0)
    yield
    plt.close('all')


@pytest.fixture(scope='session')
def digit_folder(tmp_path_factory):
    "80 digits as PNG files in class folders, and a frame of them with `path` and `label`"
    root = tmp_path_factory.mktemp('digits')
    rows = []
    for i in range(80):
        name = f'{DIGITS.target[i]}/{i:03}.png'
        (root/name).parent.mkdir(exist_ok=True)
        Image.fromarray((DIGITS.images[i]*15.9).astype('uint8')).resize((16, 16)).save(root/name)
        rows.append((name, str(DIGITS.target[i])))
    return root, pd.DataFrame(rows, columns=['path', 'label'])
