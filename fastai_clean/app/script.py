"What Streamlit runs for every rerun; the modules that draw are imported once"
import sys
from pathlib import Path

if __name__ == '__main__':
    here = str(Path(__file__).parent)
    sys.path[:] = [o for o in sys.path if o != here]  # Streamlit's, it would hide modules that a Learner needs
    from fastai_clean.app.pages import show
    show(sys.argv[1:])
