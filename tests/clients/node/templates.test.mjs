// Templates by the builder of the JavaScript client (current-protocol 10, C129 to C136).
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { BuildError, Template, waitForPort } from 'e2b'
import { create } from './support.mjs'

const name = `javascript-${Math.random().toString(36).slice(2)}`
const folder = mkdtempSync(join(tmpdir(), 'template-'))
test.after(() => rmSync(folder, { recursive: true }))
mkdirSync(join(folder, 'app'))
writeFileSync(join(folder, 'app/index.html'), `served ${name}`)
symlinkSync('index.html', join(folder, 'app/link.html'))
writeFileSync(join(folder, 'app/ignored.log'), 'x')

const builder = () => Template({ fileContextPath: folder, fileIgnorePatterns: ['**/*.log'] }).fromTemplate('base')
const size = { cpuCount: 1, memoryMB: 512 }

test('C129, C130: files, steps, and a server that runs already', async (t) => {
  const lines = []
  const template = builder()
    .copy('app', '/srv/www')
    .runCmd('cat /srv/www/link.html; test ! -e /srv/www/ignored.log')
    .setWorkdir('/srv/www')
    .setEnvs({ GREETING: 'hello "you"' })
    .setStartCmd('python3 -m http.server 8080', waitForPort(8080))
  const build = await Template.build(template, name, { ...size, onBuildLogs: (entry) => lines.push(entry.message) })
  assert.ok(lines.some((line) => line.endsWith(`[stdout]: served ${name}`)), lines.join('\n'))
  const sandbox = await create(t, name)
  assert.equal((await sandbox.getInfo()).templateId, build.templateId)
  const said = await sandbox.commands.run('curl -s localhost:8080/; echo; pwd; echo $GREETING')
  assert.equal(said.stdout, `served ${name}\n/srv/www\nhello "you"\n`)
})

test('C132: a failing step is the error', async () => {
  await assert.rejects(Template.build(builder().runCmd('exit 9'), `${name}-fails`, size), (error) => {
    assert.ok(error instanceof BuildError)
    assert.match(error.message, /exit status 9/)
    return true
  })
})

test('C135, C136: names and tags', async (t) => {
  assert.equal(await Template.exists(name), true)
  assert.equal(await Template.exists(`${name}-none`), false)
  await Template.assignTags(`${name}:default`, ['production', 'v1'])
  const tags = (await Template.getTags(name)).map((tag) => tag.tag)
  assert.deepEqual(tags.sort(), ['default', 'production', 'v1'])
  await create(t, `${name}:production`)
  await Template.removeTags(name, 'v1')
  await assert.rejects(create(t, `${name}:v1`), /404.*no finished build/)
})
