// The start command's logs: e2b 0.16.2.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox } from 'e2b'
import { until } from './support.mjs'

test('its output comes, past and future', async () => {
  const lines = [], errors = []
  const sandbox = await Sandbox.create({
    template: 'with-start-command',
    onStdout: (message) => lines.push(message.line),
    onStderr: (message) => errors.push(message.line),
  })
  await until(() => lines.includes('started') && lines.includes('later'), () => lines)
  assert.deepEqual([lines[0], errors], ['started', []])
  await Sandbox.kill(sandbox.id)
  await sandbox.close()
})
