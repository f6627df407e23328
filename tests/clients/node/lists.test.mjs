// Lists of sandboxes (current-protocol 11.2).
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox, SandboxError } from 'e2b'
import { shared } from './support.mjs'

const metadata = { list: `of ${Math.random()}` }
const older = await shared({ metadata: { ...metadata, which: 'older' } })
const newer = await shared({ metadata: { ...metadata, which: 'newer' } })
const olderInfo = await older.getInfo()

const ids = (items) => items.map((item) => item.sandboxId)
const both = (options = {}) => Sandbox.list({ ...options, query: { metadata, ...options.query } })

test('C27: a new sandbox is on the first page', async () => {
  assert.ok(ids(await Sandbox.list().nextItems()).includes(newer.sandboxId))
})

test('C28: by metadata, all pairs of it', async () => {
  assert.deepEqual(ids(await both({ query: { metadata: { which: 'older', ...metadata } } }).nextItems()), [older.sandboxId])
  assert.deepEqual(await both({ query: { metadata: { ...metadata, which: 'none' } } }).nextItems(), [])
})

test('C29, C31: by state', async () => {
  for (const state of [['running'], ['running', 'paused'], undefined]) {
    const items = await both({ query: { state } }).nextItems()
    assert.deepEqual(items.map((item) => item.state), ['running', 'running'])
  }
  assert.deepEqual(await both({ query: { state: ['paused'] } }).nextItems(), [])
})

test('C30, C35: page by page, newest first', async () => {
  const pages = both({ limit: 1 })
  assert.deepEqual(ids(await pages.nextItems()), [newer.sandboxId])
  assert.equal(pages.hasNext, true)
  assert.ok(pages.nextToken)
  const later = both({ limit: 1, nextToken: pages.nextToken })
  assert.deepEqual(ids(await pages.nextItems()), [older.sandboxId])
  assert.equal(pages.hasNext, false)
  assert.equal(pages.nextToken, undefined)
  await assert.rejects(pages.nextItems())
  assert.deepEqual(ids(await later.nextItems()), [older.sandboxId])
  await assert.rejects(both({ nextToken: 'nonsense' }).nextItems(), SandboxError)
  await assert.rejects(both({ limit: 1000 }).nextItems(), SandboxError)
})

test('C32, C36: in either order, and in no third', async () => {
  assert.deepEqual(ids(await both({ order: 'desc' }).nextItems()), [newer.sandboxId, older.sandboxId])
  assert.deepEqual(ids(await both({ order: 'asc' }).nextItems()), [older.sandboxId, newer.sandboxId])
  const pages = both({ order: 'asc', limit: 1 })
  const found = []
  while (pages.hasNext) found.push(...ids(await pages.nextItems()))
  assert.deepEqual(found, [older.sandboxId, newer.sandboxId])
  await assert.rejects(both({ order: 'random' }).nextItems(), /order must be one of asc, desc/)
})

test('C33: by the time of their start', async () => {
  const from = (ms) => both({ order: 'asc', query: { startedAfter: new Date(+olderInfo.startedAt + ms) } }).nextItems()
  assert.deepEqual(ids(await from(-1000)), [older.sandboxId, newer.sandboxId])
  assert.ok(!ids(await from(1)).includes(older.sandboxId))
  assert.deepEqual(await from(3600_000), [])
})

test('C34: by template, under any of its names', async () => {
  for (const template of ['base', olderInfo.templateId]) {
    assert.deepEqual(ids(await both({ query: { template } }).nextItems()), [newer.sandboxId, older.sandboxId])
  }
  assert.deepEqual(await both({ query: { template: 'code-interpreter-v1' } }).nextItems(), [])
  assert.deepEqual(await both({ query: { template: 'no-such-template' } }).nextItems(), [])
  await assert.rejects(both({ query: { template: 'base:default' } }).nextItems(), SandboxError)
})
