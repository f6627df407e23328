// Signed links to files, used by programs that know nothing but the link (current-protocol 1.8, C99-C102).
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { create, plain, shared } from './support.mjs'

const sandbox = await shared()
const other = await shared() // another one, so that there is a choice
const { files } = sandbox

const upload = (url, text, name = 'file') => {
  const form = new FormData()
  form.append('file', new Blob([text]), name)
  return fetch(url, { method: 'POST', body: form })
}
const changed = (url, name, value) => {
  const copy = new URL(url)
  if (value === undefined) copy.searchParams.delete(name)
  else copy.searchParams.set(name, value)
  return copy
}
const refused = async (answer, message) => {
  assert.deepEqual([answer.status, await answer.json()], [401, { code: 401, message }])
}

test('C99: download', async () => {
  await files.write('d.txt', 'signed ü')
  await other.files.write('d.txt', 'not this one')
  for (const options of [{}, { useSignatureExpiration: 60_000 }, { user: 'user' }]) {
    const answer = await fetch(await sandbox.downloadUrl('d.txt', options))
    assert.deepEqual([answer.status, await answer.text()], [200, 'signed ü'])
    assert.match(answer.headers.get('content-disposition'), /d\.txt/)
  }
  assert.equal(await (await fetch(await other.downloadUrl('d.txt'))).text(), 'not this one')
  await files.write('r.txt', 'of root', { user: 'root' })
  const answer = await fetch(await sandbox.downloadUrl('r.txt', { user: 'root' }))
  assert.equal(await answer.text(), 'of root')
  const part = await fetch(await sandbox.downloadUrl('d.txt'), { headers: { Range: 'bytes=0-5' } })
  assert.deepEqual([part.status, await part.text()], [206, 'signed'])
})

test('C99: upload', async () => {
  for (const options of [{}, { useSignatureExpiration: 60_000 }]) {
    const answer = await upload(await sandbox.uploadUrl('u.txt', options), 'sent')
    assert.equal(answer.status, 200)
    assert.deepEqual(await answer.json(), [{ name: 'u.txt', path: '/home/user/u.txt', type: 'file' }])
    assert.equal(await files.read('u.txt'), 'sent')
  }
  const asRoot = await upload(await sandbox.uploadUrl('u.txt', { user: 'root' }), 'sent')
  assert.deepEqual(await asRoot.json(), [{ name: 'u.txt', path: '/root/u.txt', type: 'file' }])
  const raw = await fetch(await sandbox.uploadUrl('raw.txt'), {
    method: 'POST',
    body: 'raw',
    headers: { 'Content-Type': 'application/octet-stream' },
  })
  assert.deepEqual([raw.status, await files.read('raw.txt')], [200, 'raw'])
  const unnamed = await upload(await sandbox.uploadUrl(), 'named by the form', 'form.txt')
  assert.deepEqual(plain(await unnamed.json()), [{ name: 'form.txt', path: '/home/user/form.txt', type: 'file' }])
})

test('C100: links end', async () => {
  await files.write('e.txt', 'x')
  const options = { useSignatureExpiration: -120_000 }
  const down = await fetch(await sandbox.downloadUrl('e.txt', options))
  await refused(down, 'signature is already expired')
  await refused(await upload(await sandbox.uploadUrl('e.txt', options), 'y'), 'signature is already expired')
  assert.equal(await files.read('e.txt'), 'x')
})

test('C101: the signature is the documented one', async () => {
  const token = sandbox.envdAccessToken
  const url = new URL(await sandbox.downloadUrl('v.txt', { user: 'user' }))
  const sum = createHash('sha256').update(`v.txt:read:user:${token}`).digest('base64').replace(/=+$/, '')
  assert.equal(url.searchParams.get('signature'), `v1_${sum}`)
})

test('C102: links are good for one thing', async () => {
  await files.write('f.txt', 'x')
  const url = new URL(await sandbox.downloadUrl('f.txt', { useSignatureExpiration: 60_000 }))
  const later = String(Number(url.searchParams.get('signature_expiration')) + 1)
  const id = { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': '49983' }
  const ask = (link) => fetch(link, { headers: id })
  await refused(await ask(changed(url, 'signature')), 'missing signature query parameter')
  await refused(await ask(changed(url, 'signature_expiration', later)), 'invalid signature')
  await refused(await ask(changed(url, 'signature_expiration')), 'invalid signature')
  await refused(await ask(changed(url, 'path', 'd.txt')), 'invalid signature')
  await refused(await ask(changed(url, 'username', 'root')), 'invalid signature')
  for (const bad of [changed(url, 'signature'), changed(url, 'path', '/etc/passwd')]) {
    assert.notEqual((await fetch(bad)).status, 200)
  }
  assert.notEqual((await upload(url, 'overwritten')).status, 200)
  assert.equal(await files.read('f.txt'), 'x')
  const missing = await fetch(await sandbox.downloadUrl('none.txt'))
  assert.deepEqual(
    [missing.status, await missing.json()],
    [404, { code: 404, message: "path '/home/user/none.txt' does not exist" }],
  )
})

test('links end with their sandbox', async (t) => {
  const short = await create(t)
  await short.files.write('x', 'x')
  const url = await short.downloadUrl('x')
  assert.equal((await fetch(url)).status, 200)
  await short.kill()
  assert.notEqual((await fetch(url)).status, 200)
})
