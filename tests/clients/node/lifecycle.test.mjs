// Create, look at, connect to, extend and kill sandboxes (current-protocol 11.1).
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  AuthenticationError,
  InvalidArgumentError,
  RateLimitError,
  Sandbox,
  SandboxError,
  SandboxNotFoundError,
} from 'e2b'
import { create, setting, until } from './support.mjs'

const UNKNOWN = 'nonexistingsandbox'

test('C1-C3, C11: a new sandbox runs, and tells what was asked for', async (t) => {
  const metadata = { run: 'a b&c=d', 'ключ/%': 'значение' }
  const sandbox = await create(t, { timeoutMs: 60_000, metadata, envs: { X: 'y' } })
  assert.equal(await sandbox.isRunning(), true)
  assert.match(sandbox.sandboxId, /^[a-z0-9]+$/)

  const info = await sandbox.getInfo()
  assert.equal(info.sandboxId, sandbox.sandboxId)
  assert.equal(info.name, 'base')
  assert.deepEqual(info.metadata, metadata)
  assert.equal(info.state, 'running')
  assert.ok(info.startedAt instanceof Date && info.endAt instanceof Date)
  assert.equal(info.endAt - info.startedAt, 60_000)
  assert.ok(Math.abs(info.startedAt - Date.now()) < 60_000)
  assert.ok(Number.isInteger(info.cpuCount) && info.cpuCount > 0)
  assert.ok(Number.isInteger(info.memoryMB) && info.memoryMB >= 128)
  assert.match(info.envdVersion, /^\d+\.\d+\.\d+$/)
  assert.deepEqual(await Sandbox.getInfo(sandbox.sandboxId), info)

  const page = await Sandbox.list({ query: { metadata } }).nextItems()
  assert.deepEqual(page.map((item) => [item.sandboxId, item.metadata]), [[sandbox.sandboxId, metadata]])
})

test('C4: life cycle and network as they were given', async (t) => {
  const network = { denyOut: ['8.8.8.8'], allowPublicTraffic: false }
  const sandbox = await create(t, { network, lifecycle: { onTimeout: 'kill' } })
  const info = await sandbox.getInfo()
  assert.deepEqual(info.lifecycle, { onTimeout: 'kill', autoResume: false })
  assert.deepEqual(info.network.denyOut, ['8.8.8.8'])
  assert.equal(info.network.allowPublicTraffic, false)
  assert.equal(info.endAt - info.startedAt, 300_000)
})

test('C6, C8, C14: a killed sandbox is gone for everybody', async (t) => {
  const metadata = { life: `short ${Math.random()}` }
  const sandbox = await create(t, { metadata })
  const listed = () => Sandbox.list({ query: { metadata, state: ['running'] } }).nextItems()
  assert.equal((await listed()).length, 1)
  assert.equal(await sandbox.kill(), true)
  assert.equal(await sandbox.isRunning(), false)
  assert.deepEqual(await listed(), [])
  assert.equal(await sandbox.kill(), false)
  await assert.rejects(Sandbox.connect(sandbox.sandboxId), SandboxNotFoundError)
  await assert.rejects(sandbox.getInfo(), SandboxNotFoundError)
  await assert.rejects(sandbox.setTimeout(1000), SandboxNotFoundError)
  await assert.rejects(sandbox.getMetrics(), SandboxNotFoundError)
  await assert.rejects(sandbox.updateNetwork({}), SandboxNotFoundError)
  await assert.rejects(sandbox.commands.run('true'), SandboxNotFoundError)
  await assert.rejects(sandbox.files.read('x'), SandboxError)
})

test('C7, C20: an id that nobody has', async () => {
  assert.equal(await Sandbox.kill(UNKNOWN), false)
  await assert.rejects(Sandbox.getInfo(UNKNOWN), SandboxNotFoundError)
  await assert.rejects(Sandbox.setTimeout(UNKNOWN, 1000), SandboxNotFoundError)
  await assert.rejects(Sandbox.connect(UNKNOWN), SandboxNotFoundError)
  assert.equal(await Sandbox.kill('../teams'), false)
})

test('C9: it ends when its time is over', async (t) => {
  const sandbox = await create(t)
  await sandbox.setTimeout(2000)
  const { endAt } = await sandbox.getInfo()
  assert.equal(await sandbox.isRunning(), true)
  await until(async () => !(await sandbox.isRunning()))
  assert.ok(Date.now() >= endAt)
  // No request reaches it any more; a moment later its processes are dead, too, and its record is closed.
  const info = () => sandbox.getInfo().catch((error) => error)
  await until(async () => (await info()) instanceof SandboxNotFoundError)
})

test('C10: more time given before it is over', async (t) => {
  const sandbox = await create(t, { timeoutMs: 2000 })
  const { endAt } = await sandbox.getInfo()
  await sandbox.setTimeout(60_000)
  assert.ok((await sandbox.getInfo()).endAt > endAt)
  await sleep(endAt - Date.now() + 1500)
  assert.equal(await sandbox.isRunning(), true)
})

test('C12, C15-C17: connecting again never takes time away', async (t) => {
  const sandbox = await create(t, { timeoutMs: 100_000 })
  const { endAt } = await sandbox.getInfo()
  const again = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 10_000 })
  assert.equal(again.sandboxId, sandbox.sandboxId)
  assert.deepEqual((await again.getInfo()).endAt, endAt)
  assert.equal(await again.connect({ timeoutMs: 1000 }), again)
  assert.deepEqual((await again.getInfo()).endAt, endAt)
  await sandbox.connect({ timeoutMs: 200_000 })
  assert.ok((await again.getInfo()).endAt > endAt)
  assert.equal(await again.isRunning(), true)
  await again.files.write('note', 'from the second handle')
  assert.equal(await sandbox.files.read('note'), 'from the second handle')
})

test('C18: a template without an MCP gateway', async () => {
  const metadata = { mcp: `none ${Math.random()}` }
  await assert.rejects(Sandbox.create('base', { mcp: { time: {} }, metadata }), /Failed to start MCP gateway/)
  await until(async () => (await Sandbox.list({ query: { metadata } }).nextItems()).length === 0)
})

test('C19: what cannot be asked for', async () => {
  const keepMemory = false
  const resumed = { lifecycle: { onTimeout: { action: 'pause', keepMemory }, autoResume: true } }
  await assert.rejects(Sandbox.create(resumed), InvalidArgumentError)
  await assert.rejects(Sandbox.create({ lifecycle: { onTimeout: { action: 'kill', keepMemory } } }), InvalidArgumentError)
  await assert.rejects(Sandbox.create('no-such-template'), (error) => error instanceof SandboxError && /404/.test(error.message))
  await assert.rejects(Sandbox.create('base:no-such-tag'), (error) => error instanceof SandboxError && /404/.test(error.message))
  await assert.rejects(Sandbox.create({ timeoutMs: 10 ** 9 }), (error) => error instanceof SandboxError && /400/.test(error.message))
})

test('C20: another team, and nobody', async (t) => {
  const sandbox = await create(t)
  const theirs = { apiKey: setting('SANDPIT_TEST_OTHER_KEY') }
  for (const call of [Sandbox.getInfo, Sandbox.connect, Sandbox.getMetrics]) {
    await assert.rejects(call.call(Sandbox, sandbox.sandboxId, theirs), SandboxNotFoundError)
  }
  await assert.rejects(Sandbox.setTimeout(sandbox.sandboxId, 1000, theirs), SandboxNotFoundError)
  await assert.rejects(Sandbox.updateNetwork(sandbox.sandboxId, {}, theirs), SandboxNotFoundError)
  assert.equal(await Sandbox.kill(sandbox.sandboxId, theirs), false)
  assert.deepEqual(await Sandbox.list(theirs).nextItems(), [])
  assert.equal(await sandbox.isRunning(), true)
  for (const apiKey of [`e2b_${'0'.repeat(40)}`, 'nonsense']) {
    await assert.rejects(Sandbox.create({ apiKey }), AuthenticationError)
    await assert.rejects(Sandbox.getInfo(sandbox.sandboxId, { apiKey }), AuthenticationError)
  }
})

test('a team at its limit is told so', async (t) => {
  const few = { apiKey: setting('SANDPIT_TEST_FEW_KEY') }
  const one = await create(t, few)
  await assert.rejects(Sandbox.create(few), RateLimitError)
  assert.equal(await one.kill(), true)
  await create(t, few)
})
