// Watching directories (current-protocol 11.8).
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FileNotFoundError, InvalidArgumentError } from 'e2b'
import { create, shared, until } from './support.mjs'

const { files, commands } = await shared()

// Watch a directory: the events so far, as 'type name'.
async function watch(t, path, options) {
  const events = []
  const seen = (event) => events.push(event)
  const handle = await files.watchDir(path, seen, { timeoutMs: 0, ...options })
  t.after(() => handle.stop())
  const lines = () => events.map((event) => `${event.type} ${event.name}`)
  const sees = (line) => until(() => lines().includes(line), () => `${line} in ${lines()}`)
  return { events, lines, sees, handle }
}

test('C104, C109: a written file, until it is stopped', async (t) => {
  await files.write('w/file', 'before')
  const { events, lines, sees, handle } = await watch(t, 'w')
  await files.write('w/file', 'after')
  await sees('write file')
  assert.equal(events[0].entry, undefined)
  await handle.stop()
  const count = events.length
  await files.write('w/file', 'unseen')
  const another = await watch(t, 'w')
  await commands.run('mv w/file w/moved; chmod 600 w/moved; rm w/moved')
  await another.sees('remove moved')
  assert.deepEqual(another.lines(), ['rename file', 'create moved', 'chmod moved', 'remove moved'])
  assert.equal(events.length, count, `${lines()}`)
})

test('C105: below, also what comes later', async (t) => {
  await files.makeDir('r/old')
  const { lines, sees } = await watch(t, 'r', { recursive: true })
  await files.write('r/old/file', 'x')
  await sees('write old/file')
  await files.makeDir('r/new')
  await sees('create new')
  await files.write('r/new/file', 'x')
  await sees('write new/file')
  await commands.run('mkdir -p r/a/b/c && echo x > r/a/b/c/d')
  await sees('create a')
  await files.write('r/a/b/c/e', 'x')
  await sees('write a/b/c/e')
  assert.ok(lines().every((line) => !line.includes('/home')))

  const flat = await watch(t, 'r')
  await files.write('r/old/file', 'y')
  await files.write('r/top', 'y')
  await flat.sees('write top')
  assert.ok(flat.lines().every((line) => line.endsWith(' top')), `${flat.lines()}`)
})

test('C106: with the entry', async (t) => {
  await files.makeDir('e')
  const { events, sees } = await watch(t, 'e', { includeEntry: true })
  await files.write('e/file', 'four')
  await sees('write file')
  const { entry } = events.find((event) => event.type === 'write')
  assert.deepEqual([entry.name, entry.path, entry.type, entry.size], ['file', '/home/user/e/file', 'file', 4])
  await files.remove('e/file')
  await sees('remove file')
  assert.equal(events.find((event) => event.type === 'remove').entry, undefined)
})

test('C107: one upload is three events', async (t) => {
  await files.makeDir('u/sub')
  const { lines, sees } = await watch(t, 'u', { recursive: true, allowNetworkMounts: true })
  await files.write('u/one', 'x')
  await sees('write one')
  await files.write('u/sub/two', 'x')
  await sees('write sub/two')
  await files.write('u/last', 'x')
  await sees('write last')
  assert.deepEqual(lines().slice(0, 6), [
    'create one', 'chmod one', 'write one',
    'create sub/two', 'chmod sub/two', 'write sub/two',
  ])
})

test('C108: what cannot be watched', async () => {
  await files.write('plain', 'x')
  await assert.rejects(files.watchDir('none', () => {}), FileNotFoundError)
  await assert.rejects(files.watchDir('plain', () => {}), InvalidArgumentError)
})

test('it ends with its time, and with the sandbox', async (t) => {
  const exits = []
  const onExit = (error) => exits.push(error)
  await watch(t, '/tmp', { timeoutMs: 500, onExit })
  await until(() => exits.length === 1)
  const doomed = await create(t)
  await doomed.files.watchDir('/tmp', () => {}, { timeoutMs: 0, onExit })
  await doomed.kill()
  await until(() => exits.length === 2)
  assert.ok(exits[1] instanceof Error)
})
