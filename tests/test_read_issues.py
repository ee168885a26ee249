"CSVs as spreadsheets and other machines write them: read if they have one meaning, else named"
import gzip

import pytest

from fastai_clean.review import read_issues

CSV = 'id,given,predicted,confidence,label_quality,is_issue\na,c\xe4t,dog,0.9,0.1,True\nb,dog,dog,0.8,0.8,False\n'
GOOD = {
    'as it is': CSV.encode(), 'byte order mark': CSV.encode('utf-8-sig'), 'line ends': CSV.replace('\n', '\r\n').encode(),
    'semicolons': CSV.replace(',', ';').encode(), 'tabs': CSV.replace(',', '\t').encode(), 'bars': CSV.replace(',', '|').encode(),
    'decimal commas': CSV.replace(',', ';').replace('0.', '0,').encode(),
    'a comma in a name': CSV.replace(',', ';').replace('is_issue\n', 'is_issue;a,b,c\n').replace('e\n', 'e;\n').encode(),
    'many semicolons in a name': CSV.replace('is_issue\n', 'is_issue,' + ';'*9 + '\n').replace('e\n', 'e,x\n').encode(),
    'quotes': CSV.replace('id,given', '"id","given"').encode()}


@pytest.mark.parametrize('name', GOOD)
def test_csv_of_a_spreadsheet_is_read(name, tmp_path):
    (tmp_path/'a.csv').write_bytes(GOOD[name])
    df = read_issues(tmp_path/'a.csv')
    assert df['id'].tolist() == ['a', 'b'] and df.given.tolist() == ['c\xe4t', 'dog']
    assert df.is_issue.tolist() == [True, False] and df.confidence.tolist() == [.9, .8]


@pytest.mark.parametrize('data, message', [
    (CSV.encode('cp1252'), 'not in UTF-8, first in line 2, byte 0xe4'), (CSV.encode('utf-16'), 'in UTF-16'),
    (CSV.replace('\xe4', 'a').encode('utf-16-le'), 'has NUL characters'),
    (CSV.replace('\na,', '\na\0b,').encode(), r'has NUL characters \(1\)'),
    (b'', 'is empty'), (b'\n \n', 'is empty'), (b'PK\x03\x04x', 'is a zip or an Excel file'),
    (gzip.compress(CSV.encode(), mtime=0), 'not in UTF-8'), (CSV.encode() + b'c,x\n', 'has 2 values in line 4, but 6 columns'),
    (CSV.encode() + b'c,x,y,.5,.5,True,more\n', 'Expected 6 fields in line 4, saw 7'),
    (CSV.replace('\na,', '\n"a,').encode(), 'end every quotation'),
    (CSV.replace('predicted', 'given').encode(), "two columns 'given'"),
    (CSV.replace('0.9', '90%').encode(), "has '90%' in 'confidence'"),
    (CSV.replace('True', 'maybe').encode(), "is_issue has 'maybe'"),
    (CSV.split('\n', 1)[1].encode(), "has no column 'label', only 'a'")])
def test_csv_with_no_single_meaning_is_refused_in_one_sentence(data, message, tmp_path):
    (tmp_path/'a.csv').write_bytes(data)
    with pytest.raises(ValueError, match=message) as e: read_issues(tmp_path/'a.csv')
    assert 'a.csv' in str(e.value) or 'is_issue' in message
    assert '\n' not in str(e.value) and len(str(e.value)) < 400


def test_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match='is a folder'): read_issues(tmp_path)
