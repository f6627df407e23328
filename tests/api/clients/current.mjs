// The current JavaScript client, unmodified, against the API: run with E2B_API_KEY and E2B_API_URL set.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'

const require = createRequire(`${process.env.E2B_NODE_MODULES}/`)
const { AuthenticationError, RateLimitError, Sandbox, SandboxError, SandboxNotFoundError } = require('e2b')

const first = await Sandbox.create({ timeoutMs: 60_000, metadata: { run: 'a b&c' }, envs: { X: 'y' } })
const info = await first.getInfo()
assert.equal(info.sandboxId, first.sandboxId)
assert.deepEqual(info.metadata, { run: 'a b&c' })
assert.equal(info.state, 'running')
assert.equal(info.endAt - info.startedAt, 60_000)

const second = await Sandbox.create('base', { metadata: { run: 'a b&c' } })
const pages = Sandbox.list({ query: { metadata: { run: 'a b&c' } }, limit: 1 })
assert.deepEqual((await pages.nextItems()).map((item) => item.sandboxId), [second.sandboxId])
assert.equal(pages.hasNext, true)
assert.deepEqual((await pages.nextItems()).map((item) => item.sandboxId), [first.sandboxId])
assert.equal(pages.hasNext, false)
const paused = Sandbox.list({ query: { state: ['paused'] } })
assert.deepEqual(await paused.nextItems(), [])
const both = Sandbox.list({ query: { state: ['running', 'paused'] }, order: 'asc' })
assert.equal((await both.nextItems()).length, 2)

await first.setTimeout(100_000)
const longer = (await first.getInfo()).endAt
assert.ok(longer > info.endAt)
await Sandbox.connect(first.sandboxId, { timeoutMs: 10_000 })
assert.deepEqual((await first.getInfo()).endAt, longer)
await first.updateNetwork({ denyOut: ['8.8.8.8'] })
assert.deepEqual((await first.getInfo()).network.denyOut, ['8.8.8.8'])
assert.ok(Array.isArray(await first.getMetrics()))

assert.equal(await Sandbox.kill('nonexistingsandbox'), false)
assert.equal(await first.kill(), true)
assert.equal(await Sandbox.kill(first.sandboxId), false)
await assert.rejects(Sandbox.connect(first.sandboxId), SandboxNotFoundError)
await assert.rejects(Sandbox.getInfo(first.sandboxId), SandboxNotFoundError)
await assert.rejects(Sandbox.create({ apiKey: `e2b_${'0'.repeat(40)}` }), AuthenticationError)
await assert.rejects(Sandbox.create('no-such-template'), (error) => error instanceof SandboxError && /404/.test(error.message))
const made = [await Sandbox.create(), await Sandbox.create()]
await assert.rejects(Sandbox.create(), RateLimitError)
for (const sandbox of [...made, second]) assert.equal(await sandbox.kill(), true)
console.log('ok')
