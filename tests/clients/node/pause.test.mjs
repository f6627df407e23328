// Pause, resume, auto-pause, auto-resume, fork and snapshots (current-protocol 11.3, 11.4).
import assert from 'node:assert/strict'
import http from 'node:http'
import { test } from 'node:test'
import { Sandbox, SandboxError, SandboxNotFoundError } from 'e2b'
import { create, setting, until } from './support.mjs'

const BOOT_ID = '/proc/sys/kernel/random/boot_id'

const run = async (sandbox, command) => (await sandbox.commands.run(command)).stdout.trim()
const state = async (sandbox) => (await sandbox.getInfo()).state
const pids = async (sandbox) => (await sandbox.commands.list()).map(({ pid }) => pid)

// GET / from a sandbox's port, by its public name: the status.
function visit(sandbox, port, headers = {}) {
  const { hostname, port: edge } = new URL(setting('E2B_SANDBOX_URL'))
  return new Promise((resolve, reject) => {
    const named = { Host: sandbox.getHost(port), ...headers }
    http.get({ hostname, port: edge, path: '/', headers: named }, (answer) => {
      answer.resume().on('end', () => resolve(answer.statusCode))
    }).on('error', reject)
  })
}

async function serve(sandbox) {
  await sandbox.commands.run('python3 -m http.server 8000', { background: true, timeoutMs: 0 })
  await until(() => run(sandbox, 'ss -Htln sport = :8000'))
}

test('C13, C39-C45: paused and connected to, all is as it was', async (t) => {
  const metadata = { paused: `${Math.random()}` }
  const sandbox = await create(t, { metadata, envs: { GIVEN: 'at create' } })
  await serve(sandbox)
  const before = await run(sandbox, `cat ${BOOT_ID}`)
  const echo = await sandbox.commands.run('read -r line; echo got $line', { background: true, stdin: true, timeoutMs: 0 })

  assert.equal(await sandbox.pause(), true)
  assert.equal(await sandbox.pause(), false)
  assert.equal(await sandbox.isRunning(), false)
  assert.equal(await state(sandbox), 'paused')
  for (const [wanted, found] of [['paused', ['paused']], ['running', []]]) {
    const page = await Sandbox.list({ query: { metadata, state: [wanted] } }).nextItems()
    assert.deepEqual(page.map((item) => item.state), found)
  }
  assert.equal(await visit(sandbox, 8000), 502)
  await assert.rejects(sandbox.commands.run('true'), SandboxError)

  const again = await Sandbox.connect(sandbox.sandboxId)
  assert.equal(again.sandboxId, sandbox.sandboxId)
  assert.equal(await sandbox.isRunning(), true)
  assert.equal(await state(sandbox), 'running')
  assert.equal(await run(sandbox, 'echo $GIVEN'), 'at create')
  assert.equal(await run(sandbox, `cat ${BOOT_ID}`), before)
  assert.equal(await visit(sandbox, 8000), 200)
  assert.ok((await pids(sandbox)).includes(echo.pid))
  const followed = await again.commands.connect(echo.pid)
  await again.commands.sendStdin(echo.pid, 'a line\n')
  assert.equal((await followed.wait()).stdout, 'got a line\n')
})

test('C46, C48, C49, C51: at its timeout, with and without memory', async (t) => {
  const full = await create(t, { timeoutMs: 2000, lifecycle: { onTimeout: 'pause' } })
  const onTimeout = { action: 'pause', keepMemory: false }
  const files = await create(t, { timeoutMs: 2000, lifecycle: { onTimeout } })
  const boots = new Map()
  for (const sandbox of [full, files]) {
    await sandbox.files.write('kept', 'until the end')
    boots.set(sandbox, await run(sandbox, `cat ${BOOT_ID}`))
  }
  for (const sandbox of [full, files]) {
    await until(async () => (await state(sandbox)) === 'paused')
    assert.equal(await sandbox.isRunning(), false)
    await sandbox.connect()
    assert.equal(await sandbox.files.read('kept'), 'until the end')
    assert.equal((await run(sandbox, `cat ${BOOT_ID}`)) === boots.get(sandbox), sandbox === full)
  }
  assert.equal(await full.pause({ keepMemory: false }), true)
  await full.connect()
  assert.notEqual(await run(full, `cat ${BOOT_ID}`), boots.get(full))
  await full.setTimeout(0)
  await until(async () => (await state(full)) === 'paused')
})

test('C50, C53, C54, C56: requests resume it where that was asked for', async (t) => {
  const lifecycle = { onTimeout: 'pause', autoResume: true }
  const sandbox = await create(t, { timeoutMs: 60_000, lifecycle, network: { allowPublicTraffic: false } })
  assert.deepEqual((await sandbox.getInfo()).lifecycle, lifecycle)
  await serve(sandbox)
  await sandbox.pause()
  assert.equal(await visit(sandbox, 8000), 403)
  assert.equal(await visit(sandbox, 49983), 401)
  assert.equal(await state(sandbox), 'paused')
  assert.equal(await visit(sandbox, 8000, { 'e2b-traffic-access-token': sandbox.trafficAccessToken }), 200)
  const info = await sandbox.getInfo()
  assert.equal(info.state, 'running')
  assert.equal(info.endAt - info.startedAt, 300_000)
  await sandbox.pause()
  assert.equal(await run(sandbox, 'echo awake'), 'awake')
  assert.equal(await state(sandbox), 'running')
})

test('C58-C61: forks go their own ways', async (t) => {
  const parent = await create(t)
  await parent.files.write('note', 'before')
  const forks = [...(await parent.fork({ count: 2, timeoutMs: 60_000 })), ...(await Sandbox.fork(parent.sandboxId))]
  for (const fork of forks) {
    assert.ok(fork instanceof Sandbox, fork)
    t.after(() => fork.kill())
  }
  const family = [parent, ...forks]
  assert.equal(new Set(family.map(({ sandboxId }) => sandboxId)).size, 4)
  for (const sandbox of family) {
    assert.equal(await sandbox.files.read('note'), 'before')
    await sandbox.files.write('note', sandbox.sandboxId)
  }
  for (const sandbox of family) assert.equal(await sandbox.files.read('note'), sandbox.sandboxId)
  await assert.rejects(parent.fork({ count: 0 }), /400/)
  await assert.rejects(Sandbox.fork('nonexistingsandbox'), SandboxNotFoundError)
})

test('C62-C66: snapshots', async (t) => {
  const source = await create(t)
  await source.files.write('note', 'of the source')
  const snapshot = await source.createSnapshot({ name: 'kept-javascript' })
  t.after(() => Sandbox.deleteSnapshot(snapshot.snapshotId))
  assert.ok(snapshot.names.some((name) => name.includes('kept-javascript')))
  assert.equal(await source.isRunning(), true)
  const copies = []
  for (let index = 0; index < 2; index++) copies.push(await Sandbox.create(snapshot.snapshotId))
  try {
    await copies[0].files.write('note', 'of the first')
    assert.equal(await copies[1].files.read('note'), 'of the source')
    assert.equal(await source.files.read('note'), 'of the source')
    const listed = async (pages) => (await pages.nextItems()).map(({ snapshotId }) => snapshotId)
    for (const pages of [source.listSnapshots(), Sandbox.listSnapshots({ name: 'kept-javascript' })]) {
      assert.deepEqual(await listed(pages), [snapshot.snapshotId])
    }
    assert.ok((await listed(Sandbox.listSnapshots())).includes(snapshot.snapshotId))
    assert.deepEqual(await listed(Sandbox.listSnapshots({ name: 'no-such-name' })), [])
    await assert.rejects(Sandbox.deleteSnapshot(snapshot.snapshotId), /400/)
  } finally {
    for (const copy of copies) await copy.kill()
  }
  assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), true)
  assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), false)
})
