// The code interpreter: executions, and what ends them (code-interpreter 2.16).
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox, TimeoutError } from '@e2b/code-interpreter'
import { plain, shared, until } from './support.mjs'

const sandbox = await shared({}, Sandbox)
const run = (code, options) => sandbox.runCode(code, options)

test('D17, D4, D5: a fresh sandbox', async () => {
  const languages = (await sandbox.listCodeContexts()).map((context) => context.language)
  assert.deepEqual(languages, ['python', 'javascript'])
  const first = await run('!pwd')
  assert.deepEqual([first.logs.stdout.join('').trim(), first.executionCount, first.error], ['/home/user', 1, undefined])
  assert.equal((await run('1')).executionCount, 2)
})

test('D1-D2: values, and a state that stays', async () => {
  assert.equal((await run('x =1; x')).text, '1')
  await run('x += 1')
  const execution = await run('x')
  assert.deepEqual([execution.text, execution.results.length, execution.results[0].isMainResult], ['2', 1, true])
  assert.deepEqual(plain(await run('None')), { results: [], logs: { stdout: [], stderr: [] } })
  assert.equal((await run('')).text, undefined)
  assert.equal((await run("'quoted'")).text, 'quoted')
  assert.equal((await run('import asyncio\nawait asyncio.sleep(0.01)\n6 * 7')).text, '42')
})

test('D3: another handle', async () => {
  await run('kept = "still here"')
  const again = await Sandbox.connect(sandbox.sandboxId)
  assert.equal((await again.runCode('kept')).text, 'still here')
})

test('D6-D8: callbacks', async () => {
  const seen = { stdout: [], stderr: [], results: [], errors: [] }
  const options = {
    onStdout: (message) => seen.stdout.push(message),
    onStderr: (message) => seen.stderr.push(message),
    onResult: (result) => seen.results.push(result),
    onError: (error) => seen.errors.push(error),
  }
  const execution = await run('import sys\nprint("out")\nprint("err", file=sys.stderr)\n"value"', options)
  assert.deepEqual(seen.stdout.map((message) => [message.line, message.error]), [['out\n', false]])
  assert.deepEqual(seen.stderr.map((message) => [message.line, message.error]), [['err\n', true]])
  assert.ok(seen.stdout[0].timestamp > 0)
  assert.deepEqual(seen.results.map((result) => result.text), ['value'])
  assert.deepEqual([seen.errors, execution.logs], [[], { stdout: ['out\n'], stderr: ['err\n'] }])
  await run('no_such_name', options)
  assert.deepEqual(seen.errors.map((error) => [error.name, error.value]), [['NameError', "name 'no_such_name' is not defined"]])
})

test('D10: output comes while the cell runs', async () => {
  const times = []
  await run('import time\nprint(1)\ntime.sleep(1)\nprint(2)', { onStdout: () => times.push(Date.now()) })
  assert.equal(times.length, 2)
  assert.ok(times[1] - times[0] > 500) // at once if the answer were buffered
})

test('D7: errors', async () => {
  const { error, results } = await run('def f():\n    return 1 / 0\nf()')
  assert.deepEqual([error.name, error.value, results], ['ZeroDivisionError', 'division by zero', []])
  assert.match(error.traceback, /ZeroDivisionError/)
  assert.ok(!error.traceback.includes('\x1b'))
  assert.equal((await run('for')).error.name, 'SyntaxError')
  const before = await run('print("shown")\n"value"\nraise ValueError("é")')
  assert.deepEqual([before.error.value, before.logs.stdout], ['é', ['shown\n']])
  assert.equal((await run('1 + 1')).text, '2')
})

test('D12: indented code', async () => {
  assert.equal((await run('\n    y = 1\n    y + 1\n    ')).text, '2')
  assert.equal((await run('        y = 5\n        y')).text, '5')
})

test('text of any kind and size', async () => {
  const text = 'ünïcödé 漢字 🎉 \u2028 "quotes" \\ \t'
  assert.equal((await run(`print(${JSON.stringify(text)})`)).logs.stdout.join(''), text + '\n')
  const { logs } = await run('print("x" * 3_000_000)\nprint("é" * 100_000)')
  assert.equal(logs.stdout.join(''), 'x'.repeat(3_000_000) + '\n' + 'é'.repeat(100_000) + '\n')
  const lines = await run('for i in range(20000): print(i)')
  assert.equal(lines.logs.stdout.join('').trim().split('\n').length, 20_000)
})

test('D45: time is over, and the kernel goes on', async () => {
  await run('kept = "not lost"')
  await assert.rejects(run('import time; time.sleep(300)', { timeoutMs: 1000 }), (error) => {
    assert.ok(error instanceof TimeoutError)
    assert.match(error.message, /timeoutMs/)
    return true
  })
  const after = await run('kept + f" {1 + 1}"', { timeoutMs: 20_000 })
  assert.equal(after.text, 'not lost 2')
  assert.equal((await run('import time; time.sleep(0.5); "slow"', { timeoutMs: 0 })).text, 'slow')
})

test('D46: the sandbox is killed during a cell', async (t) => {
  const doomed = await Sandbox.create()
  t.after(() => doomed.kill())
  let started = false
  const running = doomed.runCode('print(1)\nimport time; time.sleep(300)', { onStdout: () => (started = true) })
  const failed = assert.rejects(running, (error) => {
    assert.ok(error instanceof TimeoutError)
    assert.match(error.message, /sandbox was killed while the request was in progress/)
    return true
  })
  await until(() => started)
  await doomed.kill()
  await failed
  await assert.rejects(doomed.runCode('1'), TimeoutError)
})

test('D47: seen from inside', async () => {
  const { commands, files } = sandbox
  const health = () => commands.run('curl -s -o /dev/null -w "%{http_code}" http://0.0.0.0:49999/health; true')
  assert.equal((await health()).stdout, '200')
  await run('open("from-cell", "w").write("x")')
  assert.equal(await files.read('from-cell'), 'x')
  await commands.run('pkill -KILL -f "run.py interprete[r]"', { user: 'root' })
  await until(async () => (await health()).stdout === '200')
  assert.equal((await run('1 + 1')).text, '2')
})
