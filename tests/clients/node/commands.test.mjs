// Commands (current-protocol 11.5).
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CommandExitError, InvalidArgumentError, NotFoundError, Sandbox, TimeoutError } from 'e2b'
import { create, shared, until } from './support.mjs'

const sandbox = await shared({ envs: { GLOBAL: 'from create' } })
const { commands } = sandbox

test('C68-C69: output and exit code', async () => {
  const { stdout, stderr, exitCode } = await commands.run('echo out; echo err >&2')
  assert.deepEqual([stdout, stderr, exitCode], ['out\n', 'err\n', 0])
  await assert.rejects(commands.run('echo before; echo why >&2; exit 7'), (error) => {
    assert.ok(error instanceof CommandExitError)
    assert.deepEqual([error.exitCode, error.stdout, error.stderr, error.error], [7, 'before\n', 'why\n', 'exit status 7'])
    return true
  })
  await assert.rejects(commands.run('kill -9 $$'), (error) => error.exitCode === -1 && error.error === 'signal: killed')
  await assert.rejects(commands.run('no-such-command'), (error) => error.exitCode === 127)
})

test('C70: any text', async () => {
  const text = `!@#$%^&*()_+{}|:"<>?[];',./\`~ \\ ünïcödé 漢字 🎉\nsecond line\ttab`
  const quoted = `'${text.replaceAll("'", "'\\''")}'`
  assert.equal((await commands.run(`printf %s ${quoted}`)).stdout, text)
  assert.equal((await commands.run('cat <<END\n$HOME\n  two\nEND')).stdout, '/home/user\n  two\n')
})

test('C71: bytes that are no text, and much of it', async () => {
  const { stdout } = await commands.run(`head -c 8191 /dev/zero | tr '\\0' a; printf '\\342'`)
  assert.equal(stdout, 'a'.repeat(8191) + '\ufffd')
  const large = await commands.run('head -c 5000000 /dev/zero | tr "\\0" x | tee /dev/stderr')
  assert.deepEqual([large.stdout.length, large.stderr.length], [5_000_000, 5_000_000])
  assert.equal((await commands.run('for i in $(seq 3000); do printf é; done')).stdout, 'é'.repeat(3000))
})

test('output as it comes', async () => {
  const got = []
  const seen = (kind) => (data) => got.push([kind, data])
  const result = await commands.run('echo 1; read -t 5 line; echo 2 >&2; [ "$line" = go ]', {
    stdin: true,
    background: true,
    onStdout: seen('out'),
    onStderr: seen('err'),
  })
  await until(() => got.length === 1)
  await result.sendStdin('go\n')
  assert.equal((await result.wait()).exitCode, 0)
  assert.deepEqual(got, [['out', '1\n'], ['err', '2\n']])
  assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['1\n', '2\n', 0])
})

test('C72: a command has a time of its own', async () => {
  assert.equal((await commands.run('echo quick', { timeoutMs: 10_000 })).stdout, 'quick\n')
  await assert.rejects(commands.run('sleep 77', { timeoutMs: 500 }), TimeoutError)
  const handle = await commands.run('sleep 77', { timeoutMs: 500, background: true })
  await assert.rejects(handle.wait(), TimeoutError)
  await until(async () => !(await commands.run('pgrep -fx "sleep 77"; true')).stdout)
  assert.equal((await commands.run('sleep 1; echo late', { timeoutMs: 0 })).stdout, 'late\n')
})

test('C73-C74: users', async () => {
  assert.equal((await commands.run('id -un; pwd')).stdout, 'user\n/home/user\n')
  assert.equal((await commands.run('id -un; pwd; echo $HOME $USER', { user: 'root' })).stdout, 'root\n/home/user\n/root root\n')
  await assert.rejects(commands.run('true', { user: 'nobody-at-all' }), /invalid username: 'nobody-at-all'/)
})

test('C73: sudo', async () => {
  assert.equal((await commands.run('sudo -n id -un')).stdout, 'root\n')
})

test('C75: the sandbox is killed meanwhile', async (t) => {
  const doomed = await create(t)
  const running = doomed.commands.run('sleep 60')
  const failed = assert.rejects(running, (error) => {
    assert.match(error.message, /killed|end of life/)
    return true
  })
  await until(async () => (await doomed.commands.list()).length === 1)
  await doomed.kill()
  await failed
})

test('C76: list and kill', async () => {
  const first = await commands.run('sleep 61', { background: true, envs: { A: '1' }, cwd: '/tmp' })
  const second = await commands.run('sleep 62', { background: true })
  const listed = await commands.list()
  const found = listed.find((item) => item.pid === first.pid)
  assert.ok(listed.some((item) => item.pid === second.pid))
  assert.deepEqual([found.cmd, found.args, found.envs, found.cwd], ['/bin/bash', ['-l', '-c', 'sleep 61'], { A: '1' }, '/tmp'])
  assert.equal(await first.kill(), true)
  assert.equal((await commands.run(`kill -0 ${first.pid} || echo gone`)).stdout, 'gone\n')
  await assert.rejects(first.wait(), (error) => error instanceof CommandExitError && error.error === 'signal: killed')
  assert.equal(await commands.kill(second.pid), true)
  assert.equal(await commands.kill(second.pid), false)
  assert.equal(await commands.kill(999_999), false)
  await assert.rejects(second.wait(), CommandExitError)
})

test('C77: connect to what runs', async () => {
  const command = await commands.run('read -t 20 line; echo "heard $line"; exit 3', { background: true, stdin: true })
  await command.disconnect()
  const again = await commands.connect(command.pid)
  assert.equal(again.pid, command.pid)
  await commands.sendStdin(command.pid, 'you\n')
  await assert.rejects(again.wait(), (error) => error.exitCode === 3 && error.stdout === 'heard you\n')
  await assert.rejects(commands.connect(999_999), NotFoundError)
})

test('C78: variables', async () => {
  const line = 'echo "$GLOBAL/$OWN/$E2B_SANDBOX/$E2B_SANDBOX_ID"'
  const { stdout } = await commands.run(line, { envs: { OWN: 'a "b" $c\n', GLOBAL: 'mine' } })
  assert.equal(stdout, `mine/a "b" $c\n/true/${sandbox.sandboxId}\n`)
  assert.equal((await commands.run(line)).stdout, `from create//true/${sandbox.sandboxId}\n`)
  const python = `python3 -c "import os; print(os.environ['OWN'])"`
  assert.equal((await commands.run(python, { envs: { OWN: 'é' } })).stdout, 'é\n')
})

test('C79-C80: input', async () => {
  const texts = ['', 'hello', 'a "b" \'c\' $d `e`', 'one\ntwo\n\nthree', '漢字 🎉'.repeat(2000)]
  for (const text of texts) {
    const cat = await commands.run('cat', { background: true, stdin: true })
    await cat.sendStdin(text)
    await commands.sendStdin(cat.pid, new TextEncoder().encode(text))
    await cat.closeStdin()
    assert.equal((await cat.wait()).stdout, text + text)
  }
  const binary = await commands.run('sha256sum', { background: true, stdin: true })
  await binary.sendStdin(new Uint8Array(256).map((_, index) => index))
  await commands.closeStdin(binary.pid)
  assert.match((await binary.wait()).stdout, /^40aff2e9d2d8922e47afd4648e6967497158785fbd1da870e7110266bf944880 /)
  assert.equal((await commands.run('cat; echo end')).stdout, 'end\n')
  await assert.rejects(commands.sendStdin(999_999, 'x'), NotFoundError)
})

test('C82: directories that will not do', async () => {
  assert.equal((await commands.run('pwd', { cwd: '/usr/lib' })).stdout, '/usr/lib\n')
  await assert.rejects(commands.run('pwd', { cwd: '/no/such' }), (error) => {
    assert.ok(error instanceof InvalidArgumentError)
    assert.match(error.message, /cwd '\/no\/such' does not exist/)
    return true
  })
  await assert.rejects(commands.run('pwd', { cwd: '/root' }))
  await commands.run('mkdir gone && cd gone && rmdir ../gone')
  await assert.rejects(commands.run('pwd', { cwd: 'gone' }), InvalidArgumentError)
})

test('many at once, from several handles', async () => {
  const again = await Sandbox.connect(sandbox.sandboxId)
  const numbers = [...Array(20).keys()]
  const done = numbers.map((n) => (n % 2 ? sandbox : again).commands.run(`sleep 0.2; echo ${n}`))
  assert.deepEqual((await Promise.all(done)).map((result) => result.stdout), numbers.map((n) => `${n}\n`))
  assert.deepEqual(await commands.list(), [])
})
