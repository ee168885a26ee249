"The view made with ipywidgets alone: the same page, slower and without keys"
import ipywidgets as w

from .items import plain

COLOURS = {'relabel': '2px solid #2e7d32', 'keep': '2px solid #2e7d32', 'delete': '2px solid #c62828',
           'unsure': '2px dashed #57606a', '': '2px solid #c4c9d0'}
WORDS = {'keep': 'kept', 'delete': 'deleted', 'unsure': 'unsure', '': 'not decided'}
ALL = 'all', 'all'  # not None, which ipywidgets shows as no choice made
ACTS = {'accept': 'Accept prediction', 'keep': 'Keep', 'delete': 'Delete', 'unsure': 'Unsure'}


def fallback_view(
    cleaner,  # A Cleaner
):  # The widget
    "Data goes into text areas, option lists and images only, which take it for text: labels would typeset mathematics"
    return _Fallback(cleaner).root


class _Fallback:
    def __init__(self, cleaner):
        self.cleaner, self.filling, o = cleaner, False, cleaner.options()
        classes = [(name, i) for i, name in enumerate(o['names'])]
        filters = dict(set=('Set', [ALL, *((name, i) for i, name in enumerate(o['sets']))]),
                       given=('Given', [ALL, *classes]), predicted=('Predicted', [ALL, *classes]),
                       issues=('Show', _turned(o['shows'])), status=('Decided', _turned(o['statuses'])),
                       order=('Order', _turned(o['orders'])))
        self.filters = {k: w.Dropdown(options=choices, description=text, layout=w.Layout(width='230px'))
                        for k, (text, choices) in filters.items()}
        self.filters['set'].layout.display = None if len(o['sets']) > 1 else 'none'
        self.label = w.Dropdown(options=classes, description='Relabel as', layout=w.Layout(width='260px'))
        self.note = w.Text(placeholder='Note', layout=w.Layout(width='180px'))
        self.meter, self.count = w.IntProgress(description='Reviewed'), w.Label()
        self.said, self.where = w.Text(disabled=True, layout=w.Layout(width='99%')), w.Label()
        self.cards = [_Card(self) for _ in range(cleaner.page_size)]
        grid = w.Box([o.box for o in self.cards], layout=w.Layout(flex_flow='row wrap', width='100%'))
        self.back, self.next = self._button('‹ Previous', self.turn, -1), self._button('Next ›', self.turn, 1)
        for k, box in self.filters.items(): box.observe(lambda change, k=k: self.filter(k, change['new']), 'value')
        self.root = w.VBox([
            w.HBox([self.meter, self.count]), self._wrap(*self.filters.values()),
            self._wrap(*(self._button(text, self.batch, act) for act, text in ACTS.items()), self.label,
                       self._button('Relabel', self.batch, 'relabel'), self.note,
                       self._button('Note', self.batch, 'note'), self._button('Undo', self.act, 'undo'),
                       self._button('Redo', self.act, 'redo'), self._button('Refresh', self.do, lambda: '')),
            self.said, grid, w.HBox([self.back, self.where, self.next])])
        self.do(lambda: '', turned=True)

    def _wrap(self, *kids): return w.Box(kids, layout=w.Layout(flex_flow='row wrap'))

    def _button(self, text, f, *args):
        button = w.Button(description=text, layout=w.Layout(width='auto'))
        button.on_click(lambda _: f(*args))
        return button

    def do(self, f, turned=False):
        "Do `f`, which returns what to say of it, and show what is so afterwards"
        with self.cleaner.lock:
            try:
                self.cleaner.session.refresh()
                said = f()
            except Exception as e:  # noqa: BLE001  a full disk, a lost journal: whatever it is, the person must see it
                said = f'NOT SAVED: {type(e).__name__}: {e}'
            if turned: self.fill()
            self.update()
            self.said.value = plain(said, 500)

    def act(self, act, rows=(), value=None):
        def f():
            n = self.cleaner.act(act, rows, value)
            return f'{act} of {n:,} item{"s"*(n != 1)} saved' if n else f'Nothing to {act}'
        self.do(f)

    def batch(self, act):
        rows = [o.row for o in self.cards if o.row is not None and o.pick.value]
        if not rows:
            self.said.value = 'Select items first'
            return
        self.act(act, rows, {'relabel': self.label.value, 'note': self.note.value}.get(act))
        for o in self.cards: o.pick.value = False

    def filter(self, k, value):
        value = None if value == ALL[1] else value
        if not self.filling: self.do(lambda: self.cleaner.look(**{k: value}) or '', turned=True)

    def turn(self, by):
        self.do(lambda: self.cleaner.look(self.cleaner.number + by) or '', turned=True)

    def fill(self):
        "Put the page's items into the cards"
        page = self.cleaner.shown_page()
        self.filling = True
        for k, box in self.filters.items(): box.value = ALL[1] if page['place'][k] is None else page['place'][k]
        self.filling = False
        cards = page['cards'] + [None]*(len(self.cards) - len(page['cards']))
        for card, o in zip(self.cards, cards): card.fill(o)
        for card in self.cards: card.load()
        self.where.value = f"Page {page['number'] + 1} of {page['pages']}, {page['total']:,} items"
        self.back.disabled, self.next.disabled = page['number'] == 0, page['number'] + 1 >= page['pages']

    def update(self):
        states, progress = self.cleaner.states(), self.cleaner.progress()
        for card in self.cards: card.update(states.get(card.row, ('', '', '', '')))
        self.meter.max, self.meter.value = max(1, *progress.values()), progress['reviewed']
        self.count.value = f"{progress['reviewed']:,} reviewed, {progress['flagged']:,} flagged"


def _turned(choices): return [(name, value) for value, name in choices]


class _Card:
    "One place of the grid, filled anew at every page, since making widgets is what costs time"

    def __init__(self, view):
        self.view, self.row = view, None
        self.image = w.Image(layout=w.Layout(height='150px', object_fit='contain', display='none'))
        self.text = w.Textarea(disabled=True, rows=7, layout=w.Layout(width='97%'))
        self.about = w.Textarea(disabled=True, rows=5, layout=w.Layout(width='97%'))
        self.pick = w.Checkbox(description='select', indent=False, layout=w.Layout(width='auto'))
        buttons = [view._button(text, self.act, act) for act, text in ACTS.items()]
        self.box = w.VBox([self.image, self.text, self.about, self.pick, view._wrap(*buttons)],
                          layout=w.Layout(width='250px', margin='4px', padding='4px', border=COLOURS['']))

    def act(self, act): self.view.act(act, [self.row])

    def fill(self, o):
        self.row, self.pick.value = None if o is None else o['row'], False
        self.box.layout.display = 'none' if o is None else None
        number = lambda x: '–' if x is None else f'{x:.3f}'
        self.said = '' if o is None else (f"{o['given']} → {o['predicted']}\nconfidence {number(o['confidence'])}, "
                                          f"quality {number(o['quality'])}\n{o['set']} {o['item']}")

    def load(self):
        if self.row is None: return
        kind, text, data, mime, _ = self.view.cleaner.picture(self.row)
        if data: self.image.format, self.image.value = mime.removeprefix('image/'), data
        self.text.value = f'cannot be shown: {text}' if kind == 'missing' else text
        self.image.layout.display, self.text.layout.display = (None, 'none') if data else ('none', None)

    def update(self, state):
        action, label, user, note = state
        words = f'relabelled {label}' if action == 'relabel' else WORDS[action]
        self.about.value = '\n'.join([words + (f' by {user}' if user else '') + (f', note: {note}' if note else ''),
                                      self.said])
        self.box.layout.border = COLOURS[action]
