// Git inside a sandbox (current-protocol 11.9).
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { GitUpstreamError } from 'e2b'
import { shared, until } from './support.mjs'

const { commands, files, git } = await shared()
const out = async (command) => (await commands.run(command)).stdout

// A repository with one commit.
async function repository(path) {
  await git.init(path, { initialBranch: 'main' })
  await files.write(`${path}/README.md`, 'first\n')
  await git.add(path)
  await git.commit(path, 'first', { authorName: 'A', authorEmail: 'a@example.com' })
  return path
}

test('C111: who I am', async () => {
  await git.configureUser('Me Myself', 'me@example.com')
  assert.equal(await git.getConfig('user.name', { scope: 'global' }), 'Me Myself')
  assert.equal(await out('git config --global user.email'), 'me@example.com\n')
  assert.equal(await git.getConfig('no.such', { scope: 'global' }), undefined)
})

test('C111: init, status, add, commit', async () => {
  const path = await repository('/home/user/one')
  const clean = await git.status(path)
  assert.deepEqual([clean.currentBranch, clean.isClean, clean.fileStatus], ['main', true, []])

  await files.write([
    { path: `${path}/untracked`, data: 'x' },
    { path: `${path}/added`, data: 'x' },
    { path: `${path}/README.md`, data: 'changed\n' },
  ])
  await git.add(path, { files: ['added'] })
  const status = await git.status(path)
  const found = Object.fromEntries(status.fileStatus.map((file) => [file.name, [file.status, file.staged]]))
  assert.deepEqual(found, { 'README.md': ['modified', false], added: ['added', true], untracked: ['untracked', false] })
  assert.deepEqual([status.totalCount, status.stagedCount, status.untrackedCount, status.isClean], [3, 1, 1, false])

  await git.add(path)
  await git.commit(path, `it's "quoted" $HOME`, { authorName: 'Other' })
  const log = await out(`git -C ${path} log -1 --format='%an <%ae> %s'`)
  assert.equal(log, `Other <me@example.com> it's "quoted" $HOME\n`)
  await commands.run(`cd ${path} && git mv added renamed && rm untracked`)
  const kinds = (await git.status(path)).fileStatus.map((file) => [file.name, file.status, file.renamedFrom])
  assert.deepEqual(kinds.sort(), [['renamed', 'renamed', 'added'], ['untracked', 'deleted', undefined]])
  await assert.rejects(git.commit(path, 'nothing', { authorName: 'A' }).then(() => git.commit(path, 'again')))
  await git.commit(path, 'empty', { allowEmpty: true })
})

test('C111: branches', async () => {
  const path = await repository('/home/user/two')
  await git.createBranch(path, 'side')
  assert.equal((await git.branches(path)).currentBranch, 'side')
  await git.checkoutBranch(path, 'main')
  const { branches, currentBranch } = await git.branches(path)
  assert.deepEqual([branches.sort(), currentBranch], [['main', 'side'], 'main'])
  await git.deleteBranch(path, 'side')
  assert.deepEqual((await git.branches(path)).branches, ['main'])
})

test('C111: reset and restore', async () => {
  const path = await repository('/home/user/three')
  const readme = `${path}/README.md`
  await files.write(readme, 'second\n')
  await git.add(path)
  await git.restore(path, { paths: ['README.md'], staged: true })
  assert.equal((await git.status(path)).stagedCount, 0)
  assert.equal(await files.read(readme), 'second\n')
  await git.restore(path, { paths: ['README.md'] })
  assert.equal(await files.read(readme), 'first\n')
  await files.write(readme, 'third\n')
  await git.add(path)
  await git.reset(path, { mode: 'hard', target: 'HEAD' })
  assert.equal(await files.read(readme), 'first\n')
})

test('C111: remotes, configuration, credentials', async () => {
  const path = await repository('/home/user/four')
  const url = (name) => `https://example.invalid/${name}.git`
  await git.remoteAdd(path, 'origin', url('one'))
  assert.equal(await git.remoteGet(path, 'origin'), url('one'))
  await git.remoteAdd(path, 'origin', url('two'), { overwrite: true })
  assert.equal(await git.remoteGet(path, 'origin'), url('two'))
  assert.equal(await git.remoteGet(path, 'none'), undefined)
  await git.setConfig('pull.rebase', 'false', { scope: 'local', path })
  assert.equal(await git.getConfig('pull.rebase', { scope: 'local', path }), 'false')
  await git.dangerouslyAuthenticate({ username: 'u', password: 'p', host: 'example.invalid', protocol: 'https' })
  assert.equal(await git.getConfig('credential.helper', { scope: 'global' }), 'store')
  assert.match(await out('cat ~/.git-credentials'), /^https:\/\/u:p@example\.invalid$/m)
})

test('C112: clone, push and pull', async () => {
  await git.init('/home/user/served/r.git', { bare: true, initialBranch: 'main' })
  const daemon = await commands.run(
    'git daemon --base-path=/home/user/served --export-all --enable=receive-pack --listen=127.0.0.1 --reuseaddr',
    { background: true, timeoutMs: 0 },
  )
  const url = 'git://127.0.0.1/r.git'
  await until(() => out(`git ls-remote ${url} >/dev/null 2>&1 && echo up; true`))
  const path = await repository('/home/user/five')
  await git.remoteAdd(path, 'origin', url)
  for (const early of [() => git.push(path, { setUpstream: false }), () => git.pull(path)]) {
    await assert.rejects(early(), (error) => {
      assert.ok(error instanceof GitUpstreamError)
      assert.match(error.message, /no upstream branch is configured/)
      return true
    })
  }
  await git.push(path, { remote: 'origin', branch: 'main', setUpstream: true })
  await git.clone(url, { path: '/home/user/copy', branch: 'main', depth: 1 })
  assert.equal(await files.read('copy/README.md'), 'first\n')
  await files.write(`${path}/README.md`, 'second\n')
  await git.add(path)
  await git.commit(path, 'second')
  assert.equal((await git.status(path)).ahead, 1)
  await git.push(path)
  await git.pull('/home/user/copy')
  assert.equal(await files.read('copy/README.md'), 'second\n')
  await daemon.kill()
})
