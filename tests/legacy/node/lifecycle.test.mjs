// Sandboxes as a whole: e2b 0.16.2.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox } from 'e2b'
import { idsOf, until } from './support.mjs'

const [left, kept] = await Promise.all([Sandbox.create(), Sandbox.create()])
await kept.filesystem.write('/home/user/file', 'kept')
await kept.keepAlive(120_000)
await left.close()
await kept.close()

test('metadata and the list', async () => {
  const sandboxes = await Promise.all([0, 1].map((n) => Sandbox.create({ metadata: { n: String(n) } })))
  const listed = await idsOf(Sandbox)
  for (const [n, sandbox] of sandboxes.entries()) {
    const { metadata, alias, cpuCount, memoryMB, startedAt, ...rest } = listed.get(sandbox.id)
    assert.deepEqual([metadata, alias, cpuCount, memoryMB], [{ n: String(n) }, 'base', 2, 512])
    assert.ok(startedAt instanceof Date)
    assert.deepEqual(Object.keys(rest).sort(), ['sandboxID', 'templateID'])
  }
  for (const sandbox of sandboxes) await Sandbox.kill(sandbox.id)
  const left = await idsOf(Sandbox)
  for (const sandbox of sandboxes) {
    assert.ok(!left.has(sandbox.id))
    await sandbox.close()
  }
})

test('keep-alive has bounds', async () => {
  const sandbox = await Sandbox.create()
  await assert.rejects(sandbox.keepAlive(3_601_000))
  await Sandbox.kill(sandbox.id)
  await assert.rejects(sandbox.keepAlive(10_000), { status: 404 })
  await sandbox.close()
})

test('what does not exist', async () => {
  await assert.rejects(Sandbox.create('no-such-template'), { status: 500, message: 'Internal Server Error' })
  await assert.rejects(Sandbox.kill('i00000000000000000000-00000000'), { status: 404 })
  await assert.rejects(Sandbox.reconnect({ sandboxID: 'i00000000000000000000-00000000', timeout: 1500 }), { name: 'TimeoutError' })
  await assert.rejects(Sandbox.create({ apiKey: `e2b_${'0'.repeat(40)}` }), { status: 401 })
})

test('it dies with its client unless it is kept alive', async () => {
  await until(async () => !(await idsOf(Sandbox)).has(left.id))
  assert.ok((await idsOf(Sandbox)).has(kept.id))
  const again = await Sandbox.reconnect(kept.id)
  assert.equal(await again.filesystem.read('/home/user/file'), 'kept')
  await Sandbox.kill(again.id)
  await again.close()
})
