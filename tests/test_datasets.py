"Archives unpacked from fastai's folder, without network; frames: see test_vision and test_text"
import tarfile
from io import BytesIO

import pytest
from fastai.data.external import fastai_cfg

from fastai_clean.datasets import fetch

URL = 'http://127.0.0.1:9/made.tgz'  # Nobody answers there


@pytest.fixture
def home(tmp_path, monkeypatch):
    "fastai's folder, empty"
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'home'))
    fastai_cfg.cache_clear()
    yield tmp_path/'home'
    fastai_cfg.cache_clear()


def write_archive(home, members):
    "fastai's copy of the archive of `URL`, of name -> bytes, or the target of a symbolic link"
    (home/'archive').mkdir(parents=True)
    with tarfile.open(home/'archive/made.tgz', 'w:gz') as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, BytesIO(data))


@pytest.mark.parametrize('top', ['made/', 'other/', ''])
def test_archive_is_unpacked_into_a_folder_of_its_name(top, home):
    write_archive(home, {f'{top}a.txt': b'a', f'{top}b/c.txt': b'c'})
    folder = fetch(URL)
    assert folder == home/'data/made' and [*(home/'data').iterdir()] == [folder]
    assert (folder/'a.txt').read_bytes() == b'a' and (folder/'b/c.txt').read_bytes() == b'c'


@pytest.mark.parametrize('members', [
    {'made/a': b'', '../evil': b'x'}, {'made/link': '../..', 'made/link/evil': b'x'},
    {'made/link': '/tmp', 'made/link/evil': b'x'}])
def test_archive_that_writes_outside_its_folder_is_refused_and_not_kept(members, home):
    write_archive(home, members)
    match = "made.tgz gave an archive that cannot be unpacked .*, which is not used: "
    with pytest.raises(ValueError, match=match): fetch(URL)
    assert not [*home.rglob('evil')]
    assert not [*(home/'data').iterdir()] and not [*(home/'archive').iterdir()]


@pytest.mark.parametrize('kind, target', [(tarfile.LNKTYPE, '../../secret'), (tarfile.LNKTYPE, '/etc/passwd'),
                                          (tarfile.CHRTYPE, ''), (tarfile.BLKTYPE, ''), (tarfile.FIFOTYPE, ''),
                                          (tarfile.SYMTYPE, '/etc/passwd'), (tarfile.SYMTYPE, '../../secret')])
def test_member_that_is_a_device_or_a_link_to_the_outside_is_refused(kind, target, home):
    (home/'archive').mkdir(parents=True)
    with tarfile.open(home/'archive/made.tgz', 'w:gz') as tar:
        info = tarfile.TarInfo('made/a')
        info.type, info.linkname = kind, target
        tar.addfile(info)
    with pytest.raises(ValueError, match='gave an archive that cannot be unpacked'): fetch(URL)
    assert not [*(home/'data').iterdir()]


def test_member_with_an_absolute_path_stays_in_the_folder(home, tmp_path):
    write_archive(home, {'made/a': b'', f'{tmp_path}/evil': b'x'})
    assert (fetch(URL)/tmp_path.relative_to('/')/'evil').exists() and not (tmp_path/'evil').exists()
