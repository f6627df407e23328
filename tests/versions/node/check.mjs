// What every version of the JavaScript clients must do with nothing but the variables of `sandpit env`. Prints the hosts that it looked up.
// node check.mjs PACKAGE [INTERPRETER PACKAGE]
import assert from 'node:assert/strict'
import dns from 'node:dns'
import https from 'node:https'

const hosts = new Set()
const lookup = dns.lookup
dns.lookup = (host, ...rest) => {
  hosts.add(host)
  return lookup(host, ...rest)
}

const fetched = (host) =>
  new Promise((resolve, reject) => {
    https
      .get(`https://${host}/`, { agent: false }, (answer) => {
        let text = ''
        answer.on('data', (chunk) => (text += chunk))
        answer.on('end', () => (answer.statusCode === 200 ? resolve(text) : reject(new Error(`${answer.statusCode} ${text}`))))
      })
      .on('error', reject)
  })

async function eventually(host) {
  const deadline = Date.now() + 20_000
  for (;;) {
    try {
      return await fetched(host)
    } catch (error) {
      if (Date.now() > deadline) throw error
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
  }
}

async function useSandbox({ Sandbox }) {
  const sandbox = await Sandbox.create({ timeoutMs: 60_000 })
  try {
    assert.equal((await sandbox.commands.run('echo $((6 * 7))')).stdout, '42\n')
    await sandbox.files.write('/tmp/page/index.html', 'mine\n')
    assert.equal(await sandbox.files.read('/tmp/page/index.html'), 'mine\n')
    await sandbox.commands.run('python3 -m http.server 8000 -d /tmp/page', { background: true, timeoutMs: 0 })
    assert.equal(await eventually(sandbox.getHost(8000)), 'mine\n')
    const again = await Sandbox.connect(sandbox.sandboxId)
    assert.equal((await again.commands.run('echo again')).stdout, 'again\n')
  } finally {
    await sandbox.kill()
  }
}

async function runCell({ Sandbox }) {
  const sandbox = await Sandbox.create({ timeoutMs: 60_000 })
  try {
    assert.equal((await sandbox.runCode('21 * 2')).text, '42')
  } finally {
    await sandbox.kill()
  }
}

const [client, interpreter] = process.argv.slice(2)
await useSandbox(await import(client))
if (interpreter) await runCell(await import(interpreter))
console.log([...hosts].sort().join(' '))
process.exit(0) // the clients keep timers and connections
