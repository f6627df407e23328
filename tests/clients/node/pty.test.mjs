// Terminals (current-protocol 11.6).
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CommandExitError } from 'e2b'
import { shared, until } from './support.mjs'

const { pty, commands } = await shared()

// A shell whose output is collected; type(text) is what a person does.
async function shell(options = {}) {
  const decoder = new TextDecoder()
  const session = { text: '' }
  session.onData = (data) => {
    assert.ok(data instanceof Uint8Array)
    session.text += decoder.decode(data, { stream: true })
  }
  session.handle = await pty.create({ cols: 80, rows: 24, timeoutMs: 0, ...options, onData: session.onData })
  session.type = (text) => pty.sendInput(session.handle.pid, new TextEncoder().encode(text))
  session.shows = (pattern) => until(() => session.text.match(pattern), () => `${pattern} in ${JSON.stringify(session.text)}`)
  return session
}

test('C83: a shell with variables and a directory', async () => {
  const { handle, type, shows } = await shell({ envs: { WHO: 'me myself' }, cwd: '/usr' })
  await type('echo "<$WHO|$PWD|$TERM|$LANG>"\n')
  await shows(/<me myself\|\/usr\|xterm-256color\|C\.UTF-8>/)
  await type('exit\n')
  assert.equal((await handle.wait()).exitCode, 0)
})

test('C84: what is typed before the shell reads is not lost', async () => {
  const { handle, type, shows } = await shell()
  await type('echo $((6 * 7))-é\nexit 5\n')
  await assert.rejects(handle.wait(), (error) => error instanceof CommandExitError && error.exitCode === 5)
  await shows(/42-é/)
})

test('C85: size', async () => {
  const { handle, type, shows } = await shell()
  await type('echo "[$(tput cols) $(tput lines)]"\n')
  await shows(/\[80 24\]/)
  await type('trap resized=yes WINCH; echo read"y"; until [ "$resized" ]; do sleep 0.1; done; echo "resized $(stty size)"\n')
  await shows(/\rready|\nready/)
  await pty.resize(handle.pid, { cols: 100, rows: 50 })
  await shows(/resized 50 100/)
  await type('echo "[$(tput cols) $(tput lines)]"\nexit\n')
  assert.equal((await handle.wait()).exitCode, 0)
  await shows(/\[100 50\]/)

  const resized = await shell()
  await pty.resize(resized.handle.pid, { cols: 100, rows: 24 })
  await resized.type('tput cols; exit\n')
  await resized.handle.wait()
  await resized.shows(/\r100\r\n/)
})

test('C86: hang up and connect again', async () => {
  const { handle, type, shows, onData } = await shell()
  await type('me=still\n')
  await shows(/me=still/)
  await handle.disconnect()
  const again = await pty.connect(handle.pid, { onData })
  assert.equal(again.pid, handle.pid)
  await type('echo $me-there; exit\n')
  assert.equal((await again.wait()).exitCode, 0)
  await shows(/still-there/)
})

test('C87: kill', async () => {
  const { handle } = await shell()
  assert.equal(await handle.kill(), true)
  assert.equal((await commands.run(`kill -0 ${handle.pid} || echo gone`)).stdout, 'gone\n')
  await assert.rejects(handle.wait(), CommandExitError)
  assert.equal(await pty.kill(handle.pid), false)
  assert.equal(await pty.kill(999_999), false)
})

test('Ctrl-C, Ctrl-D and job control', async () => {
  const { handle, type, shows } = await shell({ user: 'root' })
  await type('sleep 100\n')
  await until(async () => (await commands.run('pgrep -fx "sleep 100"; true')).stdout)
  await type('\x03')
  await type('echo "status $?"\n')
  await shows(/status 130/)
  await type('cat > /tmp/typed; id -un\n')
  await until(async () => (await commands.run('pgrep -x cat; true')).stdout)
  await type('by hand\n\x04')
  await shows(/\nroot\r\n/)
  assert.equal((await commands.run('cat /tmp/typed')).stdout, 'by hand\n')
  await type('\x04')
  assert.equal((await handle.wait()).exitCode, 0)
})
