// The host of the page on a plain address: it carries messages by POST, as a notebook does by its kernel.
import view from './review.js'

const listeners = new Set()
const bytes = (text) => new DataView(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer)

async function answered(msg) {
  const response = await fetch('msg', { method: 'POST', body: JSON.stringify(msg),
    headers: { 'content-type': 'application/json' } })
  if (response.ok) return response.json()
  return { reply: { re: msg.re, error: `${response.status}: ${await response.text()}` }, buffers: [] }
}

async function post(msg) {
  // Without an answer it is not known whether the message was read
  const lost = { reply: { re: msg.re, lost: true }, buffers: [] }
  const { reply, buffers } = await answered(msg).catch(() => lost)
  listeners.forEach(f => f(reply, buffers.map(bytes)))
}

const model = {
  alone: true, // Nothing else is on the page, so its keys work from the start
  gone: 'The server does not answer: it is busy or was stopped. If it was stopped, start fastai_clean_review again.',
  on: (_, f) => listeners.add(f),
  off: (_, f) => listeners.delete(f),
  send: post,
}
view.render({ model, el: document.querySelector('main') })
