"`fastai_clean_review`: its command line, and Streamlit started so that nobody but this machine reaches it"
import argparse
import csv
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from ..review import ReviewSession
from .tables import read_issues

SCRIPT = Path(__file__).with_name('script.py')
FLAGS = ('--server.headless=true', '--server.address=127.0.0.1', '--server.allowedHosts=127.0.0.1',
         '--server.allowedHosts=localhost', '--server.enableCORS=true', '--server.enableXsrfProtection=true',
         '--server.fileWatcherType=none', '--server.enableStaticServing=false', '--browser.gatherUsageStats=false',
         '--client.toolbarMode=minimal', '--client.showErrorLinks=false')


def main(
    args=None,  # Arguments of the command line; None: those of the process
) -> int:  # Exit status of Streamlit
    """Serve the review of a CSV on 127.0.0.1, in this process and its main thread, until interrupted or terminated.
    SystemExit, with a sentence, where Streamlit is not installed and where the CSV, its journal or the folder of images
    cannot be opened."""
    args = [*map(str, sys.argv[1:] if args is None else args)]
    options = _parser().parse_args(args)
    if find_spec('streamlit') is None:
        raise SystemExit("the browser app needs Streamlit: pip install 'fastai_clean[app]'")
    try: opened(tuple(args))
    except (ValueError, TypeError, OSError, csv.Error) as e: raise SystemExit(f'fastai_clean_review: {e}') from e
    from streamlit.web.cli import main as streamlit
    port = [] if options.port is None else [f'--server.port={options.port}']
    try: streamlit(['run', str(SCRIPT), *FLAGS, *port, '--', *args], 'streamlit')
    except SystemExit as e: return e.code
    return 0


@lru_cache(maxsize=1)
def opened(
    args,  # Arguments of the command line (tuple)
):  # The options, and the one session of this process, whose threads share it
    "What the command line names. ValueError, TypeError or OSError where it cannot be opened, see `read_issues`"
    o = _parser().parse_args(args)
    if o.images is not None and not Path(o.images).is_dir():
        raise ValueError(f'--images {o.images} is no folder: name the one that the items are files in')
    if o.model is not None and not Path(o.model).is_file():
        raise ValueError(f'--model {o.model} is no file: name what learn.export() wrote')
    issues = read_issues(o.csv, o.label_column, o.id_column)
    return o, ReviewSession(issues, o.journal or Path(o.csv).with_suffix('.decisions.jsonl'), user=o.user)


def _parser():
    parser = argparse.ArgumentParser('fastai_clean_review', description='Review label issues in the browser.')
    parser.add_argument('csv', help='issue table, CSV of CleanInterpretation.to_csv, or noisy_text.csv of the tweets')
    parser.add_argument('--journal', help='decisions (.jsonl), made if absent; default: CSV.decisions.jsonl beside it')
    parser.add_argument('--images', help='folder that the items are image files in')
    parser.add_argument('--text-column', default='text', help='column with the texts; default: text')
    parser.add_argument('--label-column', default='label', help='column with the given labels; default: label')
    parser.add_argument('--id-column', help='column that names the items; default: the first that can')
    parser.add_argument('--user', help='who reviews; default: the name of the account')
    parser.add_argument('--model', help='exported Learner (.pkl) for the page of predictions; loaded after a warning')
    parser.add_argument('--port', type=int, help='port on 127.0.0.1; default: the first free from 8501')
    return parser
