// A view of a review: it sends row numbers and actions, and shows what review/page.py answers. Follows
// kernel.js.

const POLL = 4000         // Milliseconds between polls for what others decided
const CHUNK = 4           // Thumbnails asked for at a time
const TYPED_AHEAD = 2000  // Keys pressed while a page turns count if it comes within this many milliseconds
const DONE = { keep: 'kept', delete: 'deleted', unsure: 'unsure' }
const SAID = {
  accept: 'prediction accepted', relabel: 'relabelled', keep: 'kept', delete: 'marked for deletion',
  unsure: 'marked unsure', note: 'noted', undo: 'undone', redo: 'redone',
}
// The one keyboard, in every host
const ACTS = { a: 'accept', k: 'keep', d: 'delete', m: 'unsure', u: 'undo', r: 'redo' }
const KEY_OF = Object.fromEntries(Object.entries(ACTS).map(([key, act]) => [act, key]))
const HELP = {
  '1 to 9': 'relabel as that class', l: 'choose another class', a: 'accept the prediction',
  k: 'keep the given label', d: 'delete', m: 'maybe: unsure', n: 'write a note', u: 'undo', r: 'redo',
  'Arrows, Home, End': 'move between items', 'Page Up, Page Down': 'turn the page',
  'x or space': 'select the item', 'Shift + arrow': 'select a range', 'Shift + A': 'select the page',
  Esc: 'clear the selection', '?': 'show or hide this',
}
const OURS = /^(Arrow(Left|Right|Up|Down)|Home|End|PageUp|PageDown|Escape|[1-9akdmurlnxA? ])$/
const AT_END = 'This is the end of the list: keys make no more decisions here. u undoes, an arrow goes back.'
const GONE = 'The kernel does not answer: it is busy or gone. If it was restarted, run this cell again.'

class Review {
  constructor(model, el) {
    this.gone = model.gone ?? GONE
    this.alone = model.alone ?? false
    this.cards = new Map()   // Row number -> card
    this.order = []          // Row numbers of the page
    this.told = new Map()    // Row number -> { order, state }, the newest that was heard
    this.selected = new Set()
    this.current = 0         // Place of the current card on the page
    this.ended = false       // Whether the last item of the list was decided on and is still the current one
    this.goal = null         // Number of the page that was asked for
    this.turns = 0           // Order of the newest page that was heard
    this.held = []           // Keys pressed while the page turns
    this.urls = []
    this.wanted = []
    this.failed = ''
    this.reason = make('span')
    this.again = button('Try again', () => this.line.retry())
    this.drop = button('Discard', () => this.line.discard(), { title: 'Forget what was not saved' })
    this.alarm = make('div', { className: 'alarm', role: 'alert', hidden: true }, this.reason, this.again,
      this.drop)
    this.root = make('div', { className: 'fastai-clean', role: 'region', 'aria-label': 'Review of labels',
      onkeydown: e => this.key(e) }, this.alarm)
    el.append(this.root)
    // rootMargin has no effect inside a nested scroller, such as JupyterLab's: scrollMargin has
    const near = { rootMargin: '300px', scrollMargin: '300px' }
    this.eyes = new IntersectionObserver(seen => this.see(seen), near)
    this.line = new Line(model, (...o) => this.heard(...o), () => this.drawLine())
    this.timer = setInterval(() => this.poll(), POLL)
    this.line.ask({ do: 'open' })
  }

  close() {
    clearInterval(this.timer)
    this.eyes.disconnect()
    this.line.close()
    this.urls.forEach(URL.revokeObjectURL)
  }

  poll() {
    const visible = !document.hidden && this.root.offsetParent
    if (visible && this.names && !this.line.pending.size) this.line.ask({ do: 'poll' })
  }

  // ---- What comes from the session

  heard(msg, buffers, asked) {
    this.failed = msg.error && asked.do !== 'act' ? msg.error : ''
    if (!this.line.asking('look')) this.goal = null
    if (msg.options && !this.names) this.build(msg.options)
    if (!this.names) return
    for (const [row, state] of Object.entries(msg.states ?? {})) this.learn(Number(row), msg.order, state)
    // Answers may overtake each other: an older page must not replace a newer one
    if (msg.page && msg.order > this.turns) {
      this.turns = msg.order
      this.drawPage(msg.page)
    }
    if (msg.progress) this.drawProgress(msg.progress)
    if (msg.tables) this.drawTables(msg.tables)
    if (msg.estimate !== undefined) this.drawEstimate(msg.estimate)
    msg.thumbs?.forEach(o => this.drawThumb(o, buffers))
    if (asked.do === 'act') this.say(this.result(asked, msg) + (this.ended ? `. ${AT_END}` : ''))
    this.fetch()
    this.release()
  }

  result(asked, msg) {
    if (msg.count === undefined) return `Not saved: ${msg.error}`
    return msg.count ? `${SAID[asked.act]}: ${plural(msg.count, 'item')}` : `Nothing to ${asked.act}`
  }

  learn(row, order, state) {
    if (this.told.get(row)?.order > order) return
    this.told.set(row, { order, state })
    const card = this.cards.get(row)
    if (card) this.drawState(card)
  }

  see(seen) {
    for (const { isIntersecting, target } of seen) {
      if (!isIntersecting) continue
      this.eyes.unobserve(target)
      this.wanted.push([...this.cards.values()].find(o => o.box === target).row)
    }
    this.fetch()
  }

  fetch() {
    const rows = this.line.asking('thumbs') ? [] : this.wanted.splice(0, CHUNK)
    if (rows.length) this.line.ask({ do: 'thumbs', rows })
  }

  // ---- Drawing

  build({ notice, names, sets, orders, statuses, shows }) {
    this.names = names
    this.filters = {}
    this.count = make('span', { className: 'count' })
    this.way = make('span', { className: 'count way' })
    this.meter = make('progress', { 'aria-label': 'Flagged items reviewed' })
    this.estimate = make('p', { className: 'count', role: 'note', hidden: true })
    this.status = make('div', { className: 'status', role: 'status' })
    this.help = make('dl', { className: 'help', hidden: true })
    this.tables = make('div', { className: 'tables', hidden: true })
    this.grid = make('div', { className: 'grid', role: 'list', 'aria-label': 'Items' })
    const classes = [[null, 'all'], ...names.entries()]
    const filters = {
      set: ['Set', [[null, 'all'], ...sets.entries()]],
      given: ['Given', classes], predicted: ['Predicted', classes],
      issues: ['Show', shows], status: ['Decided', statuses], order: ['Order', orders],
    }
    const boxes = Object.entries(filters).map(([key, [label, choices]]) => {
      const look = value => this.line.ask({ do: 'look', place: { [key]: value } })
      const [select, box] = chooser(label, choices, look)
      this.filters[key] = select
      box.hidden = key === 'set' && sets.length < 2
      return box
    })
    for (const [keys, what] of Object.entries(HELP))
      this.help.append(make('div', {}, make('dt', { textContent: keys }), make('dd', { textContent: what })))
    const counts = button('Counts', () => this.showTables())
    if (notice) this.root.append(make('p', { className: 'notice', role: 'note' }, data(notice)))
    this.root.append(bar('Progress', this.meter, this.count, this.way, counts), this.estimate, this.tables,
      bar('Filters', ...boxes), this.batch(), this.help, this.status, this.grid, this.pager())
  }

  batch() {
    const labels = this.names.map((o, i) => [i, i < 9 ? `${i + 1}  ${o}` : o])
    const [select, label] = chooser('Relabel as', labels)
    const value = () => Number(select.value)
    select.onkeydown = e => {
      if (e.key !== 'Enter') return
      this.focus()
      this.decide('relabel', value())
      e.stopPropagation()
    }
    const note = make('input', { type: 'text', maxLength: 200, placeholder: 'Note', 'aria-label': 'Note' })
    const write = () => {
      if (note.value.trim()) this.act('note', null, note.value)
      note.value = ''
    }
    note.onkeydown = e => {
      if (e.key !== 'Enter') return
      write()
      this.focus()
      e.stopPropagation()
    }
    this.labels = select
    this.note = note
    this.chosen = make('span', { className: 'count' })
    const own = (text, act) => button(text, () => this.act(act), { title: `key ${KEY_OF[act]}` })
    return bar('Decide', this.chosen, own('Accept prediction', 'accept'), own('Keep', 'keep'),
      own('Delete', 'delete'), own('Unsure', 'unsure'), label,
      button('Relabel', () => this.act('relabel', null, value())), note, button('Note', write),
      own('Undo', 'undo'), own('Redo', 'redo'),
      button('?', () => this.toggleHelp(), { 'aria-label': 'Help' }))
  }

  pager() {
    this.where = make('span', { className: 'count' })
    this.back = button('‹ Previous', () => this.turn(-1))
    this.onward = button('Next ›', () => this.turn(1))
    return make('nav', { className: 'bar', 'aria-label': 'Pages' }, this.back, this.where, this.onward)
  }

  drawPage(page) {
    // A cell's output must not take the keys from the notebook; a page of its own may
    const focused = this.grid.contains(document.activeElement) || this.alone && !this.page
    this.urls.forEach(URL.revokeObjectURL)
    this.eyes.disconnect()
    this.selected.clear()
    this.urls = []
    this.wanted = []
    this.page = page
    this.order = page.cards.map(o => o.row)
    this.cards = new Map(page.cards.map((o, i) => [o.row, this.card(o, i)]))
    this.grid.replaceChildren(...[...this.cards.values()].map(o => o.box))
    for (const o of this.cards.values()) {
      this.drawState(o)
      this.eyes.observe(o.box)
    }
    for (const [key, value] of Object.entries(page.place)) this.filters[key].value = JSON.stringify(value)
    const place = `Page ${page.number + 1} of ${page.pages}, ${plural(page.total, 'item')}`
    this.where.textContent = page.total ? place : 'No items match'
    this.back.disabled = page.number === 0
    this.onward.disabled = page.number + 1 >= page.pages
    this.move(this.order.indexOf(page.at), focused)
    this.drawSelection()
    this.drawLine()
  }

  card(o, i) {
    const shown = make('div', { className: 'shown', textContent: '…' })
    const state = make('div', { className: 'state' })
    const unsaved = make('div', { className: 'reason', hidden: true })
    const tick = make('input', { type: 'checkbox', tabIndex: -1, 'aria-label': `Select item ${i + 1}` })
    const own = (act, text) => {
      const onclick = () => this.clicked(i, act)
      return make('button', { type: 'button', tabIndex: -1, onclick }, data(text))
    }
    const none = o.issue ? '' : '  no issue'
    const facts = `confidence ${fixed(o.confidence)}  quality ${fixed(o.quality)}${none}  `
    const about = make('div', { className: 'about' },
      make('div', {}, tick, ' ', data(o.given), ' → ', make('b', {}, data(o.predicted))),
      make('div', { className: 'facts' }, facts, data(o.set), ' ', data(o.id)), state, unsaved,
      make('div', { className: 'own' }, own('accept', `✓ ${o.predicted}`), own('keep', 'keep'),
        own('delete', 'delete'), own('unsure', 'unsure')))
    const box = make('div', { className: 'card', role: 'listitem', tabIndex: -1 }, shown, about)
    tick.onchange = () => {
      this.move(i, false)
      this.select(o.row, tick.checked)
    }
    box.onclick = e => {
      if (e.target.closest('button, input')) return
      if (e.shiftKey) this.range(i)
      else if (e.ctrlKey || e.metaKey) this.select(o.row, !this.selected.has(o.row))
      this.move(i)
    }
    return { ...o, i, box, shown, state, unsaved, tick }
  }

  drawState(card) {
    const [action, label, user, note] = this.told.get(card.row)?.state ?? ['', '', '', '']
    const what = action === 'relabel' ? `relabelled ${label}` : DONE[action] ?? ''
    const done = what && user ? `${what} by ${user}` : what
    const words = [done, note && `note: ${note}`].filter(Boolean).join(', ')
    card.box.classList.remove('is-relabel', 'is-keep', 'is-delete', 'is-unsure')
    if (action) card.box.classList.add(`is-${action}`)
    card.state.replaceChildren(data(words))
    card.box.setAttribute('aria-label', `Item ${card.i + 1} of ${this.order.length}: ${card.id}, ` +
      `given ${card.given}, predicted ${card.predicted}, confidence ${fixed(card.confidence)}, ` +
      (words || 'not decided'))
  }

  drawThumb({ row, kind, text, mime, at, width }, buffers) {
    const shown = this.cards.get(row)?.shown
    if (!shown || shown.classList.length > 1) return
    shown.classList.add(kind)
    if (kind === 'text') this.grid.classList.add('texts')
    if (kind !== 'image') {
      const why = kind === 'missing' ? 'cannot be shown: ' : ''
      shown.replaceChildren(make('span', {}, why, data(text || '(empty)')))
      return
    }
    // As buffers of messages, not as traits of the widget: a saved notebook then holds 2 kB instead of 780 kB
    const src = URL.createObjectURL(new Blob([buffers[at]], { type: mime }))
    this.urls.push(src)
    const className = width <= 64 ? 'tiny' : ''
    shown.replaceChildren(make('img', { src, alt: this.cards.get(row).id, className }))
  }

  drawProgress({ reviewed, flagged }) {
    this.meter.max = Math.max(flagged, reviewed, 1)
    this.meter.value = reviewed
    const number = n => n.toLocaleString('en')
    this.count.textContent = `${number(reviewed)} reviewed, ${number(flagged)} flagged`
  }

  drawEstimate(text) {
    this.estimate.textContent = text
    this.estimate.hidden = !text
  }

  showTables() {
    this.tables.hidden = !this.tables.hidden
    if (!this.tables.hidden) this.line.ask({ do: 'tables' })
  }

  drawTables({ classes, pairs }) {
    const agreement = pairs.length
      ? table('By pair of reviewers', ['reviewer', 'other', 'items of both', 'agreement', 'kappa'], pairs)
      : make('p', { textContent: 'Agreement is shown once two reviewers have decided.' })
    this.tables.replaceChildren(table('By given class', ['class', 'reviewed', 'flagged'], classes), agreement)
  }

  // What is on its way, and what is not saved
  drawLine() {
    const { refused, late, waiting, sent } = this.line
    const way = waiting.length === 1 ? '1 on its way' : `${waiting.length} on their way`
    if (this.way) this.way.textContent = waiting.length ? way : ''
    const silent = sent && late.has(sent.re)
    let text = this.failed
    if (late.size) text = this.gone
    if (silent) text = `NOT SAVED: ${plural(waiting.length, 'action')} without an answer. ${this.gone}`
    if (refused.length) {
      const items = new Set(refused.flatMap(o => o.rows))
      const said = `NOT SAVED: ${plural(items.size, 'item')}: ${refused.at(-1).reason}`
      text = late.size ? `${said}. ${text}` : said
    }
    for (const card of this.cards.values()) {
      const mine = o => o.rows.includes(card.row)
      const last = refused.findLast(mine)
      const reason = last?.reason ?? (silent && waiting.some(mine) ? 'no answer' : '')
      card.box.classList.toggle('waiting', waiting.some(mine))
      card.box.classList.toggle('unsaved', !!reason)
      card.unsaved.hidden = !reason
      card.unsaved.replaceChildren(reason && `NOT SAVED${last ? ` (${SAID[last.act]})` : ''}: `, data(reason))
    }
    // Told again only if it changed: a screen reader reads an alert whenever its text is set
    if (this.reason.textContent !== text) this.reason.textContent = text
    this.again.hidden = !refused.length && !silent
    this.drop.hidden = !refused.length
    this.alarm.hidden = !text
    // A page turn that nobody answers holds no keys back
    if (late.size) {
      this.goal = null
      this.held = []
    }
  }

  drawSelection() {
    for (const o of this.cards.values()) {
      o.tick.checked = this.selected.has(o.row)
      o.box.classList.toggle('selected', o.tick.checked)
    }
    this.chosen.textContent = this.selected.size ? `${this.selected.size} selected` : 'Current item'
  }

  say(text) { this.status.textContent = text }
  toggleHelp() { this.help.hidden = !this.help.hidden }

  // ---- What the reviewer does

  // One action on `rows`, else on the selection, else on the current item
  act(act, rows, value, at) {
    const history = act === 'undo' || act === 'redo'
    const here = this.order.slice(this.current, this.current + 1)
    if (history) rows = []
    rows ??= this.selected.size ? this.order.filter(o => this.selected.has(o)) : here
    if (!history && !rows.length) return
    if (history) this.ended = false
    this.line.act({ act, rows, value: value ?? null, at: at ?? here[0] ?? null })
    this.selected.clear()
    this.drawSelection()
  }

  // A key's decision: on the selection, or on the current item, and then on to the next one, which may be on
  // the next page. Past the last item a key decides nothing: it would overwrite the decision just made.
  decide(act, value) {
    if (this.selected.size) { this.act(act, null, value); return }
    if (this.ended) { this.say(AT_END); return }
    const last = this.current + 1 >= this.order.length
    this.act(act, null, value, this.order[this.current + 1])
    if (!last) this.move(this.current + 1)
    else if (!this.turn(1)) this.ended = this.order.length > 0
  }

  // A click on a card's own button: the page does not turn under the pointer
  clicked(i, act) {
    this.move(i, false)
    const next = this.order[i + 1]
    this.act(act, [this.order[i]], null, next)
    if (next !== undefined && this.grid.contains(document.activeElement)) this.move(i + 1)
  }

  turn(by) {
    const number = (this.goal ?? this.page.number) + by
    if (number < 0 || number >= this.page.pages) return false
    this.goal = number
    this.line.ask({ do: 'look', number })
    return true
  }

  select(row, on) {
    this.selected[on ? 'add' : 'delete'](row)
    this.drawSelection()
  }

  range(to) {
    const [from, end] = [this.current, to].sort((a, b) => a - b)
    this.order.slice(from, end + 1).forEach(o => this.selected.add(o))
    this.drawSelection()
  }

  move(to, focus = true) {
    this.current = Math.max(0, Math.min(to, this.order.length - 1))
    this.ended = false
    for (const { box, i } of this.cards.values()) {
      box.tabIndex = i === this.current ? 0 : -1
      box.classList.toggle('current', i === this.current)
    }
    if (focus) this.focus()
  }

  focus() { this.cards.get(this.order[this.current])?.box.focus() }

  step(key, shift) {
    const tops = [...this.cards.values()].map(o => o.box.offsetTop)
    const columns = tops.filter(o => o === tops[0]).length
    const last = this.order.length - 1
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -last, End: last }
    const to = this.current + by[key]
    const beyond = key === 'ArrowLeft' ? to < 0 : key === 'ArrowRight' && to > last
    if (beyond && !shift) { this.turn(Math.sign(to)); return }
    const within = Math.max(0, Math.min(to, last))
    if (shift) this.range(within)
    this.move(within)
  }

  key(e) {
    const writing = e.target.closest('input[type=text], select')
    if (e.key === 'Escape' && writing) this.focus()
    if (writing || e.ctrlKey || e.metaKey || e.altKey || !this.page || !OURS.test(e.key)) return
    if (e.key === ' ' && !e.target.matches('.card')) return  // A button's or a check box's own key
    e.preventDefault()
    e.stopPropagation()
    const press = { key: e.key, shift: e.shiftKey, repeat: e.repeat, time: performance.now() }
    if (!this.line.asking('look')) this.press(press)
    // The cards are about to change: the key is for those that come. A key held down would turn on and on
    else if (!e.repeat) this.held.push(press)
  }

  // The keys pressed while the page turned, unless it took so long that they were pressed in impatience
  release() {
    while (this.held.length && !this.line.asking('look')) {
      const press = this.held.shift()
      if (performance.now() - press.time < TYPED_AHEAD) this.press(press)
      else this.say('Keys that were pressed while the page turned were ignored')
    }
  }

  press({ key, shift, repeat }) {
    const row = this.order[this.current]
    if (/^Arrow|^Home$|^End$/.test(key)) this.step(key, shift)
    else if (key === 'PageUp' || key === 'PageDown') this.turn(key === 'PageUp' ? -1 : 1)
    else if (key === 'A') {
      this.order.forEach(o => this.selected.add(o))
      this.drawSelection()
    } else if (key === 'Escape') {
      this.selected.clear()
      this.drawSelection()
      this.help.hidden = true
    } else if (key === '?') this.toggleHelp()
    else if (key === 'l') this.labels.focus()
    else if (key === 'n') this.note.focus()
    else if (key === 'x' || key === ' ') this.select(row, !this.selected.has(row))
    else if (repeat) return  // One press, one decision
    else if (key === 'u' || key === 'r') this.act(ACTS[key])
    else if (Object.hasOwn(ACTS, key)) this.decide(ACTS[key])
    else if (key <= this.names.length) this.decide('relabel', key - 1)
  }
}

export default {
  render({ model, el }) {
    const review = new Review(model, el)
    return () => review.close()
  },
}
