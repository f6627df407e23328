// Everything that happens inside one sandbox: e2b 0.16.2.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { after, test } from 'node:test'
import { CurrentWorkingDirectoryDoesntExistError, Sandbox } from 'e2b'
import WebSocket from 'ws'
import { until } from './support.mjs'

let ports = []
const sandbox = await Sandbox.create({
  envVars: { SHARED: 'sandbox', BOTH: 'sandbox' },
  onScanPorts: (found) => { ports = found },
})
after(async () => {
  await Sandbox.kill(sandbox.id)
  await sandbox.close()
})
const run = (cmd, options = {}) => sandbox.process.startAndWait({ cmd, ...options })

test('output and exit code', async () => {
  const output = await run('pwd; echo wrong >&2; exit 3', { cwd: '/tmp' })
  assert.deepEqual([output.stdout, output.stderr, output.exitCode, output.error], ['/tmp', 'wrong', 3, true])
})

test('streams and the exit are told', async () => {
  const lines = [], errors = [], codes = []
  const process = await sandbox.process.start({
    cmd: "printf 'a\\n\\nb'; echo c >&2",
    onStdout: (message) => lines.push(message.line),
    onStderr: (message) => errors.push(message.line),
    onExit: (code) => codes.push(code),
  })
  await process.wait()
  assert.deepEqual([lines, errors, codes], [['a', '', 'b'], ['c'], [0]])
})

test('stdin', async () => {
  const lines = []
  const process = await sandbox.process.start({ cmd: 'read -r line; echo "$line"; cat', onStdout: (m) => lines.push(m.line) })
  await process.sendStdin('ping\n')
  await process.sendStdin('pong\n')
  await until(() => lines.join() === 'ping,pong', () => lines)
  await process.kill()
})

test('stop, with an exit callback', async () => {
  const codes = []
  const process = await sandbox.process.start({ cmd: 'sleep 1000', onExit: (code) => codes.push(code) })
  await process.kill() // hangs for ever unless the exit is told before the answer
  assert.equal(codes.length, 1)
  assert.equal((await run('pgrep -x sleep')).stdout, '')
})

test('a working directory that does not exist', async () => {
  await assert.rejects(run('pwd', { cwd: '/does/not/exist' }), CurrentWorkingDirectoryDoesntExistError)
})

test('variables and the user', async () => {
  const envVars = { BOTH: 'process', OWN: 'own' }
  const output = await run('echo $SHARED $BOTH $OWN; whoami; pwd; sudo whoami', { envVars })
  assert.deepEqual(output.stdout.split('\n'), ['sandbox process own', 'user', '/home/user', 'root'])
})

test('the working directory of the sandbox', async () => {
  sandbox.cwd = '/code'
  try {
    assert.equal((await run('pwd')).stdout, '/code')
    await sandbox.filesystem.write('relative.txt', 'text')
    assert.equal((await run('cat /code/relative.txt')).stdout, 'text')
  } finally {
    sandbox.cwd = undefined
  }
})

test('directories', async () => {
  await sandbox.filesystem.makeDir('/test/new')
  assert.deepEqual(await sandbox.filesystem.list('/test'), [{ name: 'new', isDir: true }])
  await sandbox.filesystem.remove('/test/new')
  assert.deepEqual(await sandbox.filesystem.list('/test'), [])
})

test('text and bytes', async () => {
  await sandbox.filesystem.write('/home/user/text', 'grün\n')
  assert.equal(await sandbox.filesystem.read('/home/user/text'), 'grün\n')
  const data = randomBytes(300_000)
  await sandbox.filesystem.writeBytes('/home/user/bytes', data)
  assert.deepEqual(Buffer.from(await sandbox.filesystem.readBytes('/home/user/bytes')), data)
  await assert.rejects(sandbox.filesystem.read('/none'), {
    message: "RPC Error (-32000): error reading file '/none': open /none: no such file or directory",
  })
})

test('watch', async () => {
  const events = []
  await sandbox.filesystem.makeDir('/home/user/watched')
  const watcher = sandbox.filesystem.watchDir('/home/user/watched')
  watcher.addEventListener((event) => events.push(event))
  await watcher.start()
  await sandbox.filesystem.write('/home/user/watched/file', '1')
  await until(() => events.some((event) => event.operation === 'Write'), () => events)
  assert.deepEqual(events.slice(0, 2).map(({ path, name, operation, isDir }) => ({ path, name, operation, isDir })), [
    { path: '/home/user/watched/file', name: 'file', operation: 'Create', isDir: false },
    { path: '/home/user/watched/file', name: 'file', operation: 'Write', isDir: false },
  ])
  await watcher.stop()
})

test('upload and download', async () => {
  const data = randomBytes(3_000_000)
  assert.equal(await sandbox.uploadFile(data, 'a file.bin'), '/home/user/a file.bin')
  const content = Buffer.from(await sandbox.downloadFile('/home/user/a file.bin'))
  assert.ok(content.equals(data))
  await assert.rejects(sandbox.downloadFile('/none'), /File not found: open \/none: no such file or directory/)
})

test('a terminal', async () => {
  let seen = ''
  const terminal = await sandbox.terminal.start({ onData: (data) => { seen += data }, size: { cols: 100, rows: 20 } })
  await terminal.sendData('stty size\n')
  await until(() => seen.includes('20 100'), () => seen)
  await terminal.resize({ cols: 120, rows: 30 })
  await terminal.sendData('stty size; exit\n')
  await terminal.finished
  assert.ok(seen.includes('30 120'), seen)
})

test('a terminal is killed', async () => {
  const terminal = await sandbox.terminal.start({ onData: () => {}, size: { cols: 80, rows: 24 }, cmd: 'exec sleep 1000' })
  await terminal.kill()
  await until(async () => (await run('pgrep -x sleep')).stdout === '')
})

test('a server answers at its hostname', async () => {
  await sandbox.filesystem.write('/home/user/server.py', readFileSync(process.env.SANDPIT_TEST_SERVER, 'utf8'))
  let ready = false
  const server = await sandbox.process.start({ cmd: 'python server.py 8080', onStdout: (m) => { ready ||= m.line === 'ready' } })
  await until(() => ready)
  const hostname = sandbox.getHostname(8080)
  assert.equal(await (await fetch(`https://${hostname}/path`)).text(), 'you asked for /path')
  const socket = new WebSocket(`wss://${hostname}/`)
  const echoed = await new Promise((resolve, reject) => {
    socket.onopen = () => socket.send('hello')
    socket.onmessage = (event) => resolve(event.data)
    socket.onerror = reject
  })
  assert.equal(echoed, 'hello')
  socket.close()
  await until(() => ports.some((port) => port.port === 8080 && port.state === 'LISTEN'), () => JSON.stringify(ports))
  await server.kill()
})
