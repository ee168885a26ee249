// Messages to the kernel, and the parts a page is made of. Data goes into textContent only.
const PATIENCE = 5000
// Jupyter asks the focused element alone whether it wants the keys: without the attribute on it, d d deletes the cell
function make(tag, props = {}, ...kids) {
  const node = document.createElement(tag)
  node.dataset.lmSuppressShortcuts = 'true'
  for (const [k, v] of Object.entries(props))
    if (k.includes('-') || k === 'role') node.setAttribute(k, v); else node[k] = v
  node.append(...kids)
  return node
}
const data = (text) => make('bdi', { textContent: text })
const button = (text, onclick, props = {}) => make('button', { type: 'button', textContent: text, onclick, ...props })
const fixed = (x) => x === null ? '–' : x.toFixed(3)
const many = (n) => `${n.toLocaleString('en')} item${n === 1 ? '' : 's'}`
const bar = (label, ...kids) => make('div', { className: 'bar', role: 'group', 'aria-label': label }, ...kids)

function chooser(label, choices, onchange) {
  const select = make('select', { onchange: () => onchange?.(JSON.parse(select.value)) })
  for (const [value, textContent] of choices) select.add(make('option', { value: JSON.stringify(value), textContent }))
  return [select, make('label', {}, make('span', { textContent: label }), select)]
}

class Line {  // Messages to the kernel, and which of them have no answer
  constructor(model, onanswer, onchange) {
    Object.assign(this, { model, onchange, pending: new Map(), late: new Set(), n: 0,
      view: Math.random().toString(36).slice(2) })
    this.listener = (msg, buffers) => {
      const asked = this.pending.get(msg.re)
      clearTimeout(asked?.timer)
      this.pending.delete(msg.re)
      this.late.delete(msg.re)
      onanswer(msg, buffers, asked?.act)
      onchange()
    }
    model.on('msg:custom', this.listener)
  }
  send(msg) {
    const re = `${this.view}.${++this.n}`, lost = () => { this.late.add(re); this.onchange() }
    this.pending.set(re, { re, act: msg.act, rows: msg.rows ?? [], timer: setTimeout(lost, PATIENCE) })
    try { this.model.send({ ...msg, re }) } catch { lost() }
    this.onchange()
  }
  get unsaved() { return [...this.pending.values()].filter(o => o.act) }
  get looking() { return this.pending.size > this.unsaved.length }
  close() {
    this.model.off('msg:custom', this.listener)
    for (const o of this.pending.values()) clearTimeout(o.timer)
  }
}
