// Mastra's sandbox for E2B: it builds a template with tools to mount buckets unless it is named one.
import assert from 'node:assert/strict'
import { E2BSandbox } from '@mastra/e2b'

const sandbox = new E2BSandbox({ template: 'base', timeout: 300_000 })
await sandbox.start()
try {
  const done = await sandbox.executeCommand('echo', ['out'])
  assert.deepEqual([done.exitCode, done.stdout], [0, 'out\n'])
  assert.equal((await sandbox.executeCommand('sh', ['-c', 'exit 10'])).exitCode, 10)
  const process = await sandbox.processes.spawn('echo from a process')
  assert.equal((await process.wait()).stdout, 'from a process\n')
} finally {
  await sandbox.destroy()
}
process.exit(0)
