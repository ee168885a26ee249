// Messages to the session, whatever carries them, and the parts that a page is made of.
// Data goes into textContent only, never into markup.

const PATIENCE = 5000  // Milliseconds without an answer, after which an action is shown as not saved

function make(tag, props = {}, ...kids) {
  const node = document.createElement(tag)
  // Jupyter asks only the focused element whether it wants the keys: without this on every element that
  // can have the focus, not only on the root, "d d" deletes the notebook's cell
  node.dataset.lmSuppressShortcuts = 'true'
  for (const [k, v] of Object.entries(props)) {
    if (k.includes('-') || k === 'role') node.setAttribute(k, v)
    else node[k] = v
  }
  node.append(...kids)
  return node
}

const data = (text) => make('bdi', { textContent: text })
const button = (text, onclick, props = {}) =>
  make('button', { type: 'button', textContent: text, onclick, ...props })
const bar = (label, ...kids) => make('div', { className: 'bar', role: 'group', 'aria-label': label }, ...kids)
const fixed = (x) => x === null ? '–' : x.toFixed(3)
const plural = (n, what) => `${n.toLocaleString('en')} ${what}${n === 1 ? '' : 's'}`

function chooser(label, choices, onchange) {
  const select = make('select', { 'aria-label': label, onchange: () => onchange?.(JSON.parse(select.value)) })
  for (const [value, textContent] of choices)
    select.add(make('option', { value: JSON.stringify(value), textContent }))
  return [select, make('label', {}, make('span', { textContent: label }), select)]
}

function table(caption, names, rows) {
  const cell = (tag, o) => make(tag, {}, typeof o === 'string' ? data(o) : `${o ?? '–'}`)
  const row = (tag, cells) => make('tr', {}, ...cells.map(o => cell(tag, o)))
  return make('table', {}, make('caption', { textContent: caption }), make('thead', {}, row('th', names)),
    make('tbody', {}, ...rows.map(o => row('td', o))))
}

// The messages of one view, and what became of its actions.
//
// Actions leave strictly one after the other: the next one is sent only once the one before is answered. A
// browser has several connections to a host, and actions sent at once overtake each other. Page turns and
// thumbnails do not wait for them.
class Line {
  constructor(model, onanswer, onchange) {
    this.model = model
    this.onanswer = onanswer
    this.onchange = onchange
    this.view = Math.random().toString(36).slice(2)
    this.n = 0
    this.saved = 0           // Number of the last action that was saved
    this.pending = new Map() // Message id -> what was sent and has no answer
    this.late = new Set()    // Message ids without an answer for too long
    this.queue = []          // Actions that are not sent yet
    this.sent = null         // The one action that is on its way
    this.refused = []        // Actions that were answered and not saved, with the reason
    this.listener = (msg, buffers) => this.heard(msg, buffers)
    this.leaving = e => { if (this.unsaved.length) e.preventDefault() }
    model.on('msg:custom', this.listener)
    addEventListener('beforeunload', this.leaving)
  }

  get waiting() { return this.sent ? [this.sent, ...this.queue] : this.queue }
  get unsaved() { return [...this.refused, ...this.waiting] }
  asking(what) { return [...this.pending.values()].some(o => o.msg.do === what && !this.late.has(o.msg.re)) }

  ask(msg) { this.post(this.stamped(msg)) }

  act(msg) {
    this.queue.push(this.stamped({ do: 'act', ...msg }))
    this.next()
  }

  // Sends once more what was refused, in its order, and what nobody answered
  retry() {
    this.queue.unshift(...this.refused.map(({ reason, ...msg }) => this.stamped(msg)))
    this.refused = []
    // With the same id: the page does it once, even if only the answer was lost
    if (this.sent && this.late.has(this.sent.re)) this.post(this.sent)
    this.next()
  }

  discard() {
    this.refused = []
    this.onchange()
  }

  stamped(msg) {
    this.n += 1
    return { ...msg, n: this.n, view: this.view, re: `${this.view}.${this.n}` }
  }

  next() {
    while (!this.sent && this.queue.length) {
      const msg = this.queue.shift()
      // The last decision was refused: to undo it is to forget it, not to undo the saved one before it
      if (msg.act === 'undo' && this.refused.at(-1)?.n > this.saved)
        this.onanswer({ count: this.refused.pop().rows.length }, [], msg)
      else this.post(this.sent = msg)
    }
    this.onchange()
  }

  post(msg) {
    clearTimeout(this.pending.get(msg.re)?.timer)
    this.late.delete(msg.re)
    this.pending.set(msg.re, { msg, timer: setTimeout(() => this.lost(msg.re), PATIENCE) })
    try { this.model.send(msg) } catch { this.lost(msg.re) }
  }

  lost(re) {
    if (this.pending.has(re)) this.late.add(re)
    this.onchange()
  }

  heard(msg, buffers) {
    // Every view of a notebook's widget hears the answers to all, and what is sent twice is answered twice
    const asked = this.pending.get(msg.re)
    if (!asked) return
    if (msg.lost) { this.lost(msg.re); return }
    clearTimeout(asked.timer)
    this.pending.delete(msg.re)
    this.late.delete(msg.re)
    if (asked.msg.do === 'act') this.settle(asked.msg, msg)
    this.onanswer(msg, buffers, asked.msg)
    this.next()
  }

  settle(asked, answer) {
    this.sent = null
    const history = asked.act === 'undo' || asked.act === 'redo'
    if (answer.count === undefined) {
      // A refused undo is not kept: sent later, it would undo another action
      if (!history) this.refused.push({ ...asked, reason: answer.error })
      return
    }
    this.saved = asked.n
    // An item is saved: what was refused for it before is not offered again
    const isNote = o => o.act === 'note'
    for (const o of this.refused)
      if (isNote(o) === isNote(asked)) o.rows = o.rows.filter(row => !asked.rows.includes(row))
    this.refused = this.refused.filter(o => o.rows.length)
  }

  close() {
    this.model.off('msg:custom', this.listener)
    removeEventListener('beforeunload', this.leaving)
    for (const o of this.pending.values()) clearTimeout(o.timer)
  }
}
