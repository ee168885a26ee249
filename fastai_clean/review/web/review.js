// A view of a review: sends row numbers and actions, shows what the kernel answers. Data goes into textContent only. Follows kernel.js.
const POLL = 4000, CHUNK = 4
const DONE = { keep: 'kept', delete: 'deleted', unsure: 'unsure' }
const SAID = { accept: 'prediction accepted', relabel: 'relabelled', keep: 'kept', delete: 'marked for deletion',
  unsure: 'marked unsure', note: 'noted', undo: 'undone', redo: 'done again' }
const HELP = { '1 to 9': 'relabel as that class', l: 'choose another class', a: 'accept the prediction',
  k: 'keep the given label', d: 'delete', m: 'maybe: unsure', n: 'write a note', u: 'undo', r: 'redo',
  'Arrows, Home, End': 'move between items', 'Page Up, Page Down': 'turn the page', 'x or space': 'select the item',
  'Shift + arrow': 'select a range', 'Shift + A': 'select the page', Esc: 'clear the selection', '?': 'show or hide this' }
const ACTS = { a: 'accept', k: 'keep', d: 'delete', m: 'unsure', u: 'undo', r: 'redo' }

class Review {
  constructor(model, el) {
    Object.assign(this, { cards: new Map(), order: [], urls: [], wanted: [], selected: new Set(), current: 0, failed: '' })
    this.alarm = make('div', { className: 'alarm', role: 'alert', hidden: true })
    this.root = make('div', { className: 'fastai-clean', role: 'region', 'aria-label': 'Review of labels',
      onkeydown: e => this.key(e) }, this.alarm)
    el.append(this.root)
    this.eyes = new IntersectionObserver(seen => this.see(seen), { rootMargin: '300px' })
    this.line = new Line(model, (...o) => this.heard(...o), () => this.warn())
    this.timer = setInterval(() => this.poll(), POLL)
    this.line.send({ do: 'open' })
  }
  poll() {
    if (!document.hidden && this.root.offsetParent && !this.line.pending.size && this.names) this.line.send({ do: 'poll' })
  }
  close() {
    clearInterval(this.timer)
    this.eyes.disconnect()
    this.line.close()
    this.urls.forEach(URL.revokeObjectURL)
  }

  heard(msg, buffers, act) {
    if (msg.error) this.failed = `${act ? 'NOT SAVED: ' : ''}${msg.error}`
    if (msg.options && !this.names) this.build(msg.options)
    if (!this.names) return
    if (msg.page) this.turned(msg.page)
    if (msg.states) this.cards.forEach(card => this.decided(card, msg.states[card.row]))
    if (msg.progress) this.progressed(msg.progress)
    msg.thumbs?.forEach(o => this.pictured(o, buffers))
    if (act && !msg.error) {
      this.failed = ''
      this.status.textContent = msg.count ? `${SAID[act]}: ${many(msg.count)}` : `Nothing to ${act}`
    }
    this.fetch()
  }
  warn() {
    const { unsaved, late } = this.line, n = unsaved.length
    const text = !late.size ? this.failed : (n ? `NOT SAVED: ${n} action${n === 1 ? '' : 's'} without an answer. ` : '') +
      'The kernel does not answer: it is busy or gone. If it was restarted, run this cell again.'
    for (const { box, row } of this.cards.values()) {
      const mine = unsaved.filter(o => o.rows.includes(row))
      box.classList.toggle('waiting', mine.length > 0)
      box.classList.toggle('unsaved', mine.some(o => late.has(o.re)))
    }
    if (this.alarm.textContent !== text) this.alarm.textContent = text
    this.alarm.hidden = !text
  }

  build({ names, sets, orders, statuses, shows }) {
    const classes = [[null, 'all'], ...names.entries()]
    const filters = { set: ['Set', [[null, 'all'], ...sets.entries()]], given: ['Given', classes],
      predicted: ['Predicted', classes], issues: ['Show', shows], status: ['Decided', statuses], order: ['Order', orders] }
    Object.assign(this, { names, filters: {}, count: make('span', { className: 'count' }),
      meter: make('progress', { 'aria-label': 'Flagged items reviewed' }),
      status: make('div', { className: 'status', role: 'status' }), help: make('dl', { className: 'help', hidden: true }),
      grid: make('div', { className: 'grid', role: 'list', 'aria-label': 'Items' }) })
    const boxes = Object.entries(filters).map(([key, [label, choices]]) => {
      const [select, box] = chooser(label, choices, value => this.line.send({ do: 'look', place: { [key]: value } }))
      this.filters[key] = select
      box.hidden = key === 'set' && sets.length < 2
      return box
    })
    for (const [keys, what] of Object.entries(HELP))
      this.help.append(make('div', {}, make('dt', { textContent: keys }), make('dd', { textContent: what })))
    this.root.append(bar('Progress', this.meter, this.count), bar('Filters', ...boxes), this.batch(), this.help, this.status,
      this.grid, this.pager())
  }
  batch() {
    const [labels, label] = chooser('Relabel as', this.names.map((o, i) => [i, i < 9 ? `${i + 1}  ${o}` : o]))
    const relabel = () => this.act('relabel', null, Number(labels.value))
    const note = make('input', { type: 'text', maxLength: 200, placeholder: 'Note', 'aria-label': 'Note' })
    const write = () => { if (note.value.trim()) { this.act('note', null, note.value); note.value = '' } }
    const entered = f => e => { if (e.key === 'Enter') { f(); this.focus() } }
    Object.assign(this, { labels, note, chosen: make('span', { className: 'count' }) })
    labels.onkeydown = entered(relabel)
    note.onkeydown = entered(write)
    const key = Object.fromEntries(Object.entries(ACTS).map(([k, v]) => [v, k]))
    const own = (text, act) => button(text, () => this.act(act), { title: `key ${key[act]}` })
    return bar('Decide', this.chosen, own('Accept prediction', 'accept'), own('Keep', 'keep'), own('Delete', 'delete'),
      own('Unsure', 'unsure'), label, button('Relabel', relabel), note, button('Note', write), own('Undo', 'undo'),
      own('Redo', 'redo'), button('?', () => this.toggle(), { 'aria-label': 'Help' }))
  }
  pager() {
    Object.assign(this, { where: make('span', { className: 'count' }), back: button('‹ Previous', () => this.turn(-1)),
      next: button('Next ›', () => this.turn(1)) })
    return make('nav', { className: 'bar', 'aria-label': 'Pages' }, this.back, this.where, this.next)
  }
  toggle() { this.help.hidden = !this.help.hidden }

  turned(page) {
    const focused = this.grid.contains(document.activeElement)
    this.urls.forEach(URL.revokeObjectURL)
    this.eyes.disconnect()
    this.selected.clear()
    Object.assign(this, { urls: [], wanted: [], page, order: page.cards.map(o => o.row),
      cards: new Map(page.cards.map((o, i) => [o.row, this.card(o, i)])) })
    this.grid.replaceChildren(...[...this.cards.values()].map(o => o.box))
    this.cards.forEach(o => this.eyes.observe(o.box))
    for (const [key, value] of Object.entries(page.place)) this.filters[key].value = JSON.stringify(value)
    this.where.textContent = page.total ? `Page ${page.number + 1} of ${page.pages}, ${many(page.total)}` : 'No such items'
    this.back.disabled = page.number === 0
    this.next.disabled = page.number + 1 >= page.pages
    this.move(this.order.indexOf(page.at), focused)
    this.marked()
  }
  card(o, i) {
    const shown = make('div', { className: 'shown', textContent: '…' }), state = make('div', { className: 'state' })
    const tick = make('input', { type: 'checkbox', tabIndex: -1, 'aria-label': `Select item ${i + 1}` })
    const own = (act, text) => make('button', { type: 'button', tabIndex: -1,
      onclick: () => { this.move(i, false); this.act(act, [o.row]) } }, data(text))
    const facts = `confidence ${fixed(o.confidence)}  quality ${fixed(o.quality)}${o.issue ? '' : '  no issue'}  `
    const about = make('div', { className: 'about' },
      make('div', {}, tick, ' ', data(o.given), ' → ', make('b', {}, data(o.predicted))),
      make('div', { className: 'facts' }, facts, data(o.set), ' ', data(o.item)), state,
      make('div', { className: 'own' }, own('accept', `✓ ${o.predicted}`), own('keep', 'keep'), own('delete', 'delete'),
        own('unsure', 'unsure')))
    const box = make('div', { className: 'card', role: 'listitem', tabIndex: -1 }, shown, about)
    tick.onchange = () => { this.move(i, false); this.select(o.row, tick.checked) }
    box.onclick = e => {
      if (e.target.closest('button, input')) return
      if (e.shiftKey) this.range(i); else if (e.ctrlKey || e.metaKey) this.select(o.row, !this.selected.has(o.row))
      this.move(i)
    }
    return { ...o, i, box, shown, state, tick }
  }
  decided(card, [action, label, user, note] = ['', '', '', '']) {
    const what = action === 'relabel' ? `relabelled ${label}` : DONE[action] ?? ''
    const words = [what && user ? `${what} by ${user}` : what, note && `note: ${note}`].filter(Boolean).join(', ')
    card.box.classList.remove('is-relabel', 'is-keep', 'is-delete', 'is-unsure')
    if (action) card.box.classList.add(`is-${action}`)
    card.state.replaceChildren(data(words))
    card.box.setAttribute('aria-label', `Item ${card.i + 1} of ${this.order.length}: ${card.item}, given ${card.given}, ` +
      `predicted ${card.predicted}, confidence ${fixed(card.confidence)}, ${words || 'not decided'}`)
  }
  progressed({ reviewed, flagged }) {
    Object.assign(this.meter, { max: Math.max(flagged, reviewed, 1), value: reviewed })
    this.count.textContent = `${reviewed.toLocaleString('en')} reviewed, ${flagged.toLocaleString('en')} flagged`
  }
  see(seen) {
    for (const { isIntersecting, target } of seen) if (isIntersecting) {
      this.eyes.unobserve(target)
      this.wanted.push([...this.cards.values()].find(o => o.box === target).row)
    }
    this.fetch()
  }
  fetch() {
    const rows = this.line.looking ? [] : this.wanted.splice(0, CHUNK)
    if (rows.length) this.line.send({ do: 'thumbs', rows })
  }
  pictured({ row, kind, text, mime, at, width }, buffers) {
    const shown = this.cards.get(row)?.shown
    if (!shown || shown.classList.length > 1) return
    shown.classList.add(kind)
    if (kind === 'text') this.grid.classList.add('texts')
    if (kind !== 'image') {
      shown.replaceChildren(make('span', {}, kind === 'missing' ? 'cannot be shown: ' : '', data(text || '(empty)')))
      return
    }
    const src = URL.createObjectURL(new Blob([buffers[at]], { type: mime }))
    this.urls.push(src)
    shown.replaceChildren(make('img', { src, alt: this.cards.get(row).item, className: width <= 64 ? 'tiny' : '' }))
  }

  act(act, rows, value) {
    const history = act === 'undo' || act === 'redo', here = this.order.slice(this.current, this.current + 1)
    const chosen = this.selected.size ? this.order.filter(o => this.selected.has(o)) : here
    rows ??= history ? [] : chosen
    if (!history && !rows.length) return
    const onward = rows.length === 1 && rows[0] === here[0] && act !== 'note' && this.grid.contains(document.activeElement)
    if (onward) this.move(this.current + 1)
    this.line.send({ do: 'act', act, rows, value: value ?? null, at: this.order[this.current] ?? null })
    this.selected.clear()
    this.marked()
  }
  turn(by) {
    const number = this.page.number + by
    if (number >= 0 && number < this.page.pages) this.line.send({ do: 'look', number })
  }
  select(row, on) { this.selected[on ? 'add' : 'delete'](row); this.marked() }
  range(to) {
    const [from, end] = [this.current, to].sort((a, b) => a - b)
    this.order.slice(from, end + 1).forEach(o => this.selected.add(o))
    this.marked()
  }
  marked() {
    for (const o of this.cards.values()) {
      o.tick.checked = this.selected.has(o.row)
      o.box.classList.toggle('selected', o.tick.checked)
    }
    this.chosen.textContent = this.selected.size ? `${this.selected.size} selected` : 'Current item'
  }
  move(to, focus = true) {
    this.current = Math.max(0, Math.min(to, this.order.length - 1))
    for (const { box, i } of this.cards.values()) {
      box.tabIndex = i === this.current ? 0 : -1
      box.classList.toggle('current', i === this.current)
    }
    if (focus) this.focus()
  }
  focus() { this.cards.get(this.order[this.current])?.box.focus() }
  step(key, shift) {
    const tops = [...this.cards.values()].map(o => o.box.offsetTop), last = this.order.length - 1
    const columns = tops.filter(o => o === tops[0]).length
    const to = this.current + { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -last, End: last }[key]
    if (!shift && key === 'ArrowLeft' && to < 0 || !shift && key === 'ArrowRight' && to > last) { this.turn(Math.sign(to)); return }
    const within = Math.max(0, Math.min(to, last))
    if (shift) this.range(within)
    this.move(within)
  }
  key(e) {
    const { key } = e, writing = e.target.closest('input[type=text], select'), row = this.order[this.current]
    if (key === 'Escape' && writing) this.focus()
    if (writing || e.ctrlKey || e.metaKey || e.altKey || !this.names) return
    if (/^Arrow|^Home$|^End$/.test(key)) this.step(key, e.shiftKey)
    else if (key === 'PageUp' || key === 'PageDown') this.turn(key === 'PageUp' ? -1 : 1)
    else if (key === 'A') { this.order.forEach(o => this.selected.add(o)); this.marked() }
    else if (key === 'Escape') { this.selected.clear(); this.marked(); this.help.hidden = true }
    else if (key === '?') this.toggle()
    else if (key === 'l') this.labels.focus()
    else if (key === 'n') this.note.focus()
    else if (key === 'x' || (key === ' ' && e.target.matches('.card'))) this.select(row, !this.selected.has(row))
    else if (Object.hasOwn(ACTS, key)) { if (!e.repeat) this.act(ACTS[key]) }
    else if (/^[1-9]$/.test(key)) { if (!e.repeat && key <= this.names.length) this.act('relabel', null, key - 1) }
    else return
    e.preventDefault()
    e.stopPropagation()
  }
}

export default { render({ model, el }) { const review = new Review(model, el); return () => review.close() } }
