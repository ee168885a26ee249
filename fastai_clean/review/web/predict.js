// The page that predicts a typed text. Data goes into textContent only.
const at = (id) => document.getElementById(id)
const say = (text) => { at('said').textContent = text }

async function ask(msg) {
  const response = await fetch('predict', { method: 'POST', body: JSON.stringify(msg),
    headers: { 'content-type': 'application/json' } })
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`)
  return response.json()
}

function row(name, p) {
  const tr = document.createElement('tr')
  const meter = Object.assign(document.createElement('meter'), { value: p })
  for (const o of [p.toFixed(3), name, meter]) {
    const td = document.createElement('td')
    td.append(o)
    tr.append(td)
  }
  return tr
}

at('trust').onclick = () => {
  at('warning').hidden = true
  at('form').hidden = false
  at('text').focus()
}

at('form').onsubmit = async e => {
  e.preventDefault()
  const text = at('text').value
  if (!text.trim()) { say('Type a text first.'); return }
  say('Predicting …')
  at('ranked').replaceChildren()
  try {
    const { error, label, ranked } = await ask({ text })
    say(error ?? `Predicted: ${label}`)
    at('ranked').replaceChildren(...(ranked ?? []).map(o => row(...o)))
  } catch (e) { say(`The server does not answer: ${e.message}`) }
}

const { model } = await ask({})
at('model').textContent = model === null
  ? 'To predict, start the app with --model and the file that learn.export() wrote.' : `Learner: ${model}`
at('warning').hidden = model === null
