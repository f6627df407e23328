// The code interpreter: @e2b/code-interpreter 0.0.8.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { CodeInterpreter } from '@e2b/code-interpreter'

const sandbox = await CodeInterpreter.create()
after(async () => {
  await CodeInterpreter.kill(sandbox.id)
  await sandbox.close()
})
const { notebook } = sandbox
const cell = (code, options) => notebook.execCell(code, options)

test('a fresh sandbox', async () => {
  assert.equal((await notebook.listKernels()).length, 1)
  assert.equal((await cell('x = (')).executionCount, 1)
  const execution = await cell('x = 1; x')
  assert.deepEqual([execution.text, execution.executionCount], ['1', 2])
  assert.equal((await cell('x += 1; x')).text, '2')
})

test('charts and streaming', async () => {
  const lines = [], seen = []
  const code = `import matplotlib.pyplot as plt
print('first')
plt.plot([1, 3, 2])
plt.show()
print('second')
'done'`
  const execution = await cell(code, { onStdout: (m) => lines.push(m.line), onResult: (r) => seen.push(r.formats()) })
  const [chart, main] = execution.results
  assert.equal(Buffer.from(chart.png, 'base64').subarray(1, 4).toString(), 'PNG')
  assert.deepEqual([main.isMainResult, main.text, execution.text], [true, "'done'", "'done'"])
  assert.deepEqual([lines.join(''), seen], ['first\nsecond\n', [['png'], []]])
})

test('errors', async () => {
  const { error } = await cell('1 / 0')
  assert.deepEqual([error.name, error.value], ['ZeroDivisionError', 'division by zero'])
  assert.ok(error.traceback.includes('1 / 0'))
})

test('a cell that takes too long is given up', async () => {
  const kernelID = await notebook.createKernel()
  const code = 'import time; time.sleep(1000)'
  await assert.rejects(cell(code, { kernelID, timeout: 1000 }), /Awaiting response to .* timed out/)
  // The client ends its whole process when such a cell ends later: this one does not.
  await notebook.shutdownKernel(kernelID)
})

test('kernels are created, restarted, listed and shut down', async () => {
  await cell('x = 1')
  const kernelID = await notebook.createKernel('/tmp')
  assert.equal((await cell('import os; os.getcwd()', { kernelID })).text, "'/tmp'")
  assert.equal((await cell('x', { kernelID })).error.value, "name 'x' is not defined")
  assert.ok((await notebook.listKernels()).includes(kernelID))
  await cell('y = 1', { kernelID })
  await notebook.restartKernel(kernelID)
  assert.equal((await cell('y', { kernelID })).error.value, "name 'y' is not defined")
  await notebook.shutdownKernel(kernelID)
  assert.equal((await notebook.listKernels()).length, 1)
  assert.equal((await cell('x')).text, '1')
})

test('reconnect', async () => {
  await cell('z = 26')
  const again = await CodeInterpreter.reconnect(sandbox.id)
  assert.equal((await again.notebook.execCell('z')).text, '26')
  await again.close()
})
