// Files (current-protocol 11.7).
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { AuthenticationError, FileNotFoundError, InvalidArgumentError, NotFoundError } from 'e2b'
import { plain, shared } from './support.mjs'

const { files, commands } = await shared()
const bytesOf = (text) => new TextEncoder().encode(text)
const sha256 = (data) => createHash('sha256').update(data).digest('hex')

async function collected(stream) {
  const chunks = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks)
}

test('C88-C89: write any kind of data, over what was there', async () => {
  const text = 'text with ü and 漢字\n'
  const kinds = {
    text,
    buffer: bytesOf(text).buffer,
    blob: new Blob([text]),
    stream: new Blob([text]).stream(),
  }
  for (const [name, data] of Object.entries(kinds)) {
    await files.write(name, 'older and longer than what comes after it, by far, so that nothing of it may stay')
    const info = await files.write(name, data)
    assert.deepEqual(plain(info), { name, type: 'file', path: `/home/user/${name}` })
    assert.equal(await files.read(name), text, name)
  }
  const nested = await files.write('made/on the/way/ü.txt', 'x', { useOctetStream: true })
  assert.equal(nested.path, '/home/user/made/on the/way/ü.txt')
  assert.equal(await files.read('/home/user/made/on the/way/ü.txt'), 'x')
  assert.equal((await commands.run('stat -c "%U %a" "made/on the" "made/on the/way/ü.txt"')).stdout, 'user 755\nuser 644\n')
})

test('C90: several files', async () => {
  assert.deepEqual(await files.writeFiles([]), [])
  const entries = [
    { path: 'several/z', data: 'text' },
    { path: 'several/a', data: bytesOf('bytes').buffer },
    { path: '/tmp/several/deep/er', data: new Blob(['blob']) },
    { path: 'several/s', data: new Blob(['stream']).stream() },
  ]
  const infos = await files.write(entries)
  assert.deepEqual(
    infos.map((info) => info.path),
    ['/home/user/several/z', '/home/user/several/a', '/tmp/several/deep/er', '/home/user/several/s'],
  )
  const texts = await Promise.all(infos.map((info) => files.read(info.path)))
  assert.deepEqual(texts, ['text', 'bytes', 'blob', 'stream'])
  const many = [...Array(50).keys()].map((n) => ({ path: `many/${n}`, data: `${n}` }))
  assert.equal((await files.write(many)).length, 50)
  assert.equal((await commands.run('cat many/*| wc -c')).stdout, '90\n')
})

test('C91: read in every form', async () => {
  const data = randomBytes(5_000_000)
  await files.write('large', new Blob([data]))
  const as = (format) => files.read('large', { format })
  const forms = [await as('bytes'), Buffer.from(await (await as('blob')).arrayBuffer()), await collected(await as('stream'))]
  for (const form of forms) assert.equal(sha256(form), sha256(data))
  assert.equal((await commands.run('sha256sum < large')).stdout, `${sha256(data)}  -\n`)
  await files.write('large', new Blob([data]).stream())
  assert.equal(sha256(await as('bytes')), sha256(data))

  await files.write('empty', '')
  assert.equal(await files.read('empty'), '')
  assert.equal((await files.read('empty', { format: 'bytes' })).length, 0)
  assert.equal((await (await files.read('empty', { format: 'blob' })).text()), '')
  assert.match(await files.read('/proc/sys/kernel/random/boot_id'), /^[0-9a-f-]{36}\n$/)

  for (const format of ['text', 'bytes', 'blob', 'stream']) {
    await assert.rejects(files.read('no/such', { format }), (error) => {
      assert.ok(error instanceof FileNotFoundError && error instanceof NotFoundError)
      assert.match(error.message, /path '\/home\/user\/no\/such' does not exist/)
      return true
    })
  }
  await assert.rejects(files.read('/home/user'), InvalidArgumentError)
})

test('a stream that is left half read', async () => {
  const stream = await files.read('large', { format: 'stream' })
  const reader = stream.getReader()
  assert.ok((await reader.read()).value.length > 0)
  await reader.cancel()
  assert.equal(await files.exists('large'), true)
})

test('C92: compressed on the way', async () => {
  const text = 'a line that comes again\n'.repeat(50_000)
  for (const data of [text, new Blob([text]), new Blob([text]).stream()]) {
    const info = await files.write('zipped', data, { gzip: true })
    assert.equal(info.path, '/home/user/zipped')
    assert.equal(await files.read('zipped', { gzip: true }), text)
  }
  assert.equal(await files.read('zipped'), text)
  assert.equal((await files.read('zipped', { gzip: true, format: 'bytes' })).length, text.length)
  assert.equal((await commands.run('head -c 6 zipped')).stdout, 'a line')
})

test('C93: whose home', async () => {
  const info = await files.write('mine', 'r', { user: 'root' })
  assert.equal(info.path, '/root/mine')
  assert.equal((await files.getInfo('mine', { user: 'root' })).owner, 'root')
  assert.equal(await files.read('~/mine', { user: 'root' }), 'r')
  assert.equal(await files.exists('mine'), false)
  await assert.rejects(files.read('x', { user: 'nobody-at-all' }), AuthenticationError)
  assert.equal((await commands.run('pwd', { cwd: '~/made' })).stdout, '/home/user/made\n')
})

test('C94-C95: directories, renames, removals', async () => {
  assert.equal(await files.makeDir('d'), true)
  assert.equal(await files.makeDir('d'), false)
  assert.equal(await files.makeDir('d/e/f'), true)
  await files.write('d/file', 'f')
  await assert.rejects(files.makeDir('d/file'), InvalidArgumentError)
  assert.equal(await files.exists('d/e'), true)
  const moved = await files.rename('d/file', 'd/e/new/file2')
  assert.deepEqual([moved.name, moved.type, moved.path], ['file2', 'file', '/home/user/d/e/new/file2'])
  assert.equal(await files.exists('d/file'), false)
  await assert.rejects(files.rename('d/none', 'd/x'), FileNotFoundError)
  await files.remove('d/e/new/file2')
  assert.equal(await files.exists('d/e/new/file2'), false)
  await files.remove('d')
  assert.equal(await files.exists('d'), false)
  await files.remove('d')
})

test('C96: lists', async () => {
  await files.write([
    { path: 'l/b/1/x', data: '' },
    { path: 'l/b/2', data: 'two' },
    { path: 'l/a', data: '' },
    { path: 'l/c/z', data: '' },
  ])
  const names = async (depth) => (await files.list('l', { depth })).map((entry) => entry.path.slice('/home/user/l/'.length))
  assert.deepEqual(await names(), ['a', 'b', 'c'])
  assert.deepEqual(await names(1), ['a', 'b', 'c'])
  assert.deepEqual(await names(2), ['a', 'b', 'b/1', 'b/2', 'c', 'c/z'])
  assert.deepEqual(await names(3), ['a', 'b', 'b/1', 'b/1/x', 'b/2', 'c', 'c/z'])
  await assert.rejects(files.list('l', { depth: 0 }), /depth should be at least/)
  await assert.rejects(files.list('none'), FileNotFoundError)
  await assert.rejects(files.list('l/a'), InvalidArgumentError)
  const [two] = (await files.list('/home/user/l/b')).filter((entry) => entry.name === '2')
  const { modifiedTime, ...rest } = two
  assert.deepEqual(plain(rest), {
    name: '2', type: 'file', path: '/home/user/l/b/2', size: 3,
    mode: 0o644, permissions: '-rw-r--r--', owner: 'user', group: 'user',
  })
  assert.ok(Math.abs(modifiedTime - Date.now()) < 60_000)
})

test('C97: what an entry is', async () => {
  await files.write('i/file', 'four')
  await commands.run('ln -s file i/link; ln -s /home/user i/away; ln -s nowhere i/broken')
  const info = async (path) => {
    const { type, size, mode, permissions, owner, group, symlinkTarget } = await files.getInfo(path)
    return [type, size, mode, permissions, owner, group, symlinkTarget]
  }
  assert.deepEqual(await info('i/file'), ['file', 4, 0o644, '-rw-r--r--', 'user', 'user', undefined])
  const [type, , ...rest] = await info('i')
  assert.deepEqual([type, ...rest], ['dir', 0o755, 'drwxr-xr-x', 'user', 'user', undefined])
  const [linkType, , mode, permissions, , , target] = await info('i/link')
  assert.deepEqual([linkType, mode, permissions, target], ['file', 0o644, 'Lrwxrwxrwx', '/home/user/i/file'])
  assert.deepEqual((await info('i/away')).at(-1), '/home/user')
  assert.equal(await files.exists('i/broken'), true)
  assert.equal((await files.getInfo('/usr/bin/passwd')).owner, 'root')
  await assert.rejects(files.getInfo('i/none'), FileNotFoundError)
})

test('C98: metadata', async () => {
  const metadata = { author: 'me', 'x-note': 'two words' }
  for (const options of [{}, { useOctetStream: true }, { gzip: true }]) {
    const written = await files.write('m', 'x', { ...options, metadata })
    assert.deepEqual(written.metadata, metadata)
    assert.deepEqual((await files.getInfo('m')).metadata, metadata)
  }
  const [listed] = (await files.list('/home/user')).filter((entry) => entry.name === 'm')
  assert.deepEqual(listed.metadata, metadata)
  assert.deepEqual((await files.rename('m', 'm2')).metadata, metadata)
  assert.equal((await files.write('m2', 'y')).metadata, undefined)
  assert.equal((await files.getInfo('m2')).metadata, undefined)
  const both = await files.write([{ path: 'm3', data: '3' }, { path: 'm4', data: '4' }], { metadata: { k: 'v' } })
  assert.deepEqual(both.map((info) => info.metadata), [{ k: 'v' }, { k: 'v' }])
  await commands.run(`python3 -c "import os; os.setxattr('m2', 'user.e2b.author', b'inside')"`)
  assert.deepEqual((await files.getInfo('m2')).metadata, { author: 'inside' })
  for (const bad of [{ 'a b': 'x' }, { a: 'ü' }, { a: 'x\ny' }]) {
    await assert.rejects(files.write('m2', 'x', { metadata: bad }), InvalidArgumentError)
  }
})

test('C103: many uploads at once', async () => {
  const sizes = [0, 1, 65_535, 65_536, 65_537, 1_000_000]
  const blobs = sizes.map((size) => randomBytes(size))
  await Promise.all(blobs.map((data, index) => files.write(`at once/${index}`, new Blob([data]))))
  const sums = (await commands.run('sha256sum "at once"/*')).stdout.trim().split('\n').map((line) => line.slice(0, 64))
  assert.deepEqual(sums, blobs.map(sha256))
})
