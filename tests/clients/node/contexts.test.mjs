// Contexts and languages of the code interpreter (code-interpreter 2.11-2.13, 2.16), all in a sandbox whose ports are
// private: the interpreter's is one of them (D19, D49).
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { NotFoundError, Sandbox, SandboxError } from '@e2b/code-interpreter'
import { shared, until } from './support.mjs'

const how = { envs: { GLOBAL: 'supertest' }, network: { allowPublicTraffic: false } }
const sandbox = await shared(how, Sandbox)
const run = (code, options) => sandbox.runCode(code, options)

test('D49: private ports', async () => {
  assert.ok(sandbox.trafficAccessToken)
  assert.equal((await run('1 + 1')).text, '2')
})

test('D14-D16, D20, D22: contexts', async () => {
  const made = await sandbox.createCodeContext()
  assert.deepEqual([made.language, made.cwd], ['python', '/home/user'])
  assert.deepEqual((await sandbox.listCodeContexts()).at(-1), made)
  const elsewhere = await sandbox.createCodeContext({ language: 'python', cwd: '/tmp' })
  assert.equal(elsewhere.cwd, '/tmp')
  assert.equal((await run('import os; os.getcwd()', { context: elsewhere })).text, '/tmp')
  await run('shared = 1')
  assert.equal((await run('shared', { context: made })).error.value, "name 'shared' is not defined")
  await Promise.all([
    run('import time; time.sleep(0.3); "made"', { context: made }),
    run('"default"'),
  ]).then((done) => assert.deepEqual(done.map((execution) => execution.text), ['made', 'default']))
  await sandbox.removeCodeContext(made)
  await sandbox.removeCodeContext(elsewhere.id)
  const left = (await sandbox.listCodeContexts()).map((context) => context.id)
  assert.ok(!left.includes(made.id) && !left.includes(elsewhere.id))
  await assert.rejects(run('1', { context: made }), NotFoundError)
  await assert.rejects(sandbox.removeCodeContext(made), NotFoundError)
})

test('D18: restart', async () => {
  const context = await sandbox.createCodeContext()
  await run('gone = 1', { context })
  await sandbox.restartCodeContext(context)
  const { error, executionCount } = await run('gone', { context })
  assert.deepEqual([error.name, error.value, executionCount], ['NameError', "name 'gone' is not defined", 1])
  assert.ok((await sandbox.listCodeContexts()).some((other) => other.id === context.id))

  // and so does a kernel that dies, by itself
  assert.equal((await run('import os; os._exit(1)', { context })).error.name, 'ContextRestarting')
  await until(async () => (await run('1 + 1', { context })).text === '2')
  await sandbox.removeCodeContext(context)
})

test('D21: a context or a language, not both', async () => {
  const [context] = await sandbox.listCodeContexts()
  await assert.rejects(run('1', { context, language: 'python' }), /context|language/)
  await assert.rejects(run('1', { language: 'cobol' }), SandboxError)
  await assert.rejects(sandbox.createCodeContext({ language: 'cobol' }), SandboxError)
})

test('D23-D25: JavaScript and TypeScript', async () => {
  for (const language of ['js', 'javascript', 'ts', 'typescript']) {
    assert.equal((await run('process.cwd()', { language })).text, '/home/user', language)
    assert.deepEqual((await run('console.log("Hello World!")', { language })).logs.stdout, ['Hello World!\n'])
  }
  const js = { language: 'js' }
  assert.deepEqual((await run('import { readFileSync } from "fs"\nconsole.log(typeof readFileSync)', js)).logs.stdout, ['function\n'])
  assert.equal((await run('await Promise.resolve("Hello World!")', js)).text, 'Hello World!')
  await run('const answer = 40', js)
  assert.equal((await run('answer + 2', js)).text, '42')
  assert.equal((await run('noSuchName', js)).error.name, 'ReferenceError')
  assert.equal((await run('const y: = 5', js)).error.name, 'Error') // Deno says nothing of it but that it failed
  const ts = await run('interface P { n: number }\nconst p: P = { n: 6 }\nconsole.log(p.n as number)', { language: 'ts' })
  assert.deepEqual([ts.error, ts.logs.stdout], [undefined, ['6\n']])
})

test('D23: bash', async () => {
  const language = 'bash'
  assert.equal((await run('pwd', { language })).logs.stdout.join(''), '/home/user\n')
  await run('cd /tmp; here=1', { language })
  assert.equal((await run('echo $here $PWD', { language })).logs.stdout.join(''), '1 /tmp\n')
  assert.equal((await run('false', { language })).error.value, '1')
})

const READ = {
  python: (name) => `import os; print(os.getenv('${name}', ''))`,
  javascript: (name) => `console.log(process.env.${name} ?? '')`,
  bash: (name) => `echo "$${name}"`,
}
for (const [language, read] of Object.entries(READ)) {
  test(`D28-D30: variables in ${language}`, async () => {
    const value = async (name, envs) => (await run(read(name), { language, envs })).logs.stdout.join('').trim()
    assert.equal(await value('GLOBAL'), 'supertest')
    assert.equal(await value('OWN', { OWN: `a "b" 'c'` }), `a "b" 'c'`)
    assert.equal(await value('OWN'), '')
    assert.equal(await value('GLOBAL', { GLOBAL: 'mine' }), 'mine')
    assert.equal(await value('GLOBAL'), 'supertest')
  })
}

test('D11: two languages at once', async () => {
  const [python, js] = await Promise.all([
    run('import time; time.sleep(0.3); "python"'),
    run('await new Promise((done) => setTimeout(done, 300)); "js"', { language: 'js' }),
  ])
  assert.deepEqual([python.text, js.text], ['python', 'js'])
})
