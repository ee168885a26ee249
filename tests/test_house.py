"The house's rules, read from the source: imports run down, few doors, short modules and lines"
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastai_clean

PACKAGE = Path(__file__).parents[1]/'fastai_clean'
# A module imports only from parts before its own: the order of fastai_clean/__init__.py's docstring
ORDER = ('_files _text _images _columns _rows _strength issues plots losses data oof dynamics interpret callbacks review '
         'widgets app datasets vision text learner all').split()
NO_TORCH = {'_files', '_text', '_images', '_columns', '_rows', '_strength', 'issues', 'plots', 'review'}
LAZY = {('interpret', 'review')}  # Up the list, within a function only
SOURCES = {o.relative_to(PACKAGE).as_posix(): o.read_text(encoding='utf-8') for o in sorted(PACKAGE.rglob('*.py'))}
TREES = {module: ast.parse(source) for module, source in SOURCES.items()}


def part_of(module): return module.removesuffix('.py').split('/')[0]


def imports(module):
    "Dotted names that `module` imports, and whether it does so at its top"
    package = ['fastai_clean', *module.split('/')[:-1]]
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import): names = [o.name for o in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) + 1 - node.level] if node.level else []
            base = base + [node.module] if node.module else base
            names = ['.'.join([*base, o.name]) for o in node.names]
        else: continue
        for name in names: yield name.split('.'), node.col_offset == 0


def test_imports_run_down_the_list_only():
    wrong = set()
    for module in SOURCES:
        part = part_of(module)
        for (package, *names), at_top in imports(module):
            if package != 'fastai_clean' or names[0] in (part, '__version__'): continue
            runs_down = ORDER.index(names[0]) < ORDER.index(part)
            if not runs_down and (at_top or (part, names[0]) not in LAZY): wrong.add((module, names[0]))
    assert not wrong


def test_arrays_and_deciding_import_neither_torch_nor_fastai_and_only_issues_cleanlab():
    wrong = set()
    for module in SOURCES:
        packages = {package for (package, *_), _ in imports(module)}
        if part_of(module) in NO_TORCH: wrong |= {(module, o) for o in packages & {'torch', 'fastai'}}
        if part_of(module) != 'issues': wrong |= {(module, o) for o in packages & {'cleanlab'}}
    assert not wrong


@pytest.mark.parametrize('part', ['issues', 'plots', 'review'])
def test_importing_a_part_without_learners_leaves_torch_and_fastai_out(part):
    code = f"import sys, fastai_clean.{part}; print(sorted({{'torch', 'fastai'}} & sys.modules.keys()))"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert out.stdout.strip() == '[]', out.stderr


def test_the_map_names_every_part_in_order_and_imports_nothing():
    named = re.findall(r'^    (_?\w+(?:, _?\w+)*)  ', fastai_clean.__doc__, re.M)
    assert [o for names in named for o in names.split(', ')] == ORDER
    assert {part_of(o) for o in SOURCES} == {*ORDER, '__init__'}
    assert not list(imports('__init__.py'))


def test_only_packages_and_doors_list_what_they_export():
    listed = {o for o, tree in TREES.items() for node in tree.body if ast.unparse(node).startswith('__all__ =')}
    assert not {o for o in listed if not o.endswith('/__init__.py')} - {'all.py', 'vision.py', 'text.py'}


def test_only_learner_patches_fastai():
    patch = re.compile(r'^@patch|^Learner\.\w+ =|\bsetattr\(Learner', re.M)
    assert [o for o, source in SOURCES.items() if patch.search(source)] == ['learner.py']


def test_modules_and_lines_are_short():
    lines = {module: source.splitlines() for module, source in SOURCES.items()}
    assert not [module for module, found in lines.items() if len(found) > 400]
    assert not [f'{module}:{i}' for module, found in lines.items() for i, o in enumerate(found, 1) if len(o) > 100]
