// ComputeSDK's provider for E2B: a command, files, a server's address, and the end.
import assert from 'node:assert/strict'
import { e2b } from '@computesdk/e2b'

const sandbox = await e2b({ apiKey: process.env.E2B_API_KEY }).sandbox.create()
try {
  const done = await sandbox.runCommand('echo out; exit 9')
  assert.deepEqual([done.exitCode, done.stdout], [9, 'out\n'])
  await sandbox.filesystem.writeFile('/home/user/a.txt', 'kept')
  assert.equal(await sandbox.filesystem.readFile('/home/user/a.txt'), 'kept')
  assert.ok((await sandbox.filesystem.readdir('/home/user')).some((one) => one.name === 'a.txt'))
  assert.match(await sandbox.getUrl({ port: 8080 }), /8080/)
} finally {
  await sandbox.destroy()
}
process.exit(0)
