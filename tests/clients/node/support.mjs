// What the test files share. They run as a user's program would: in a folder with the official packages in node_modules,
// and with E2B_API_KEY, E2B_API_URL and E2B_SANDBOX_URL in the environment.
import assert from 'node:assert/strict'
import { after } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Sandbox } from 'e2b'

const PATIENCE_MS = 20_000

// A sandbox that ends with its test; `how` are Sandbox.create's own arguments.
export async function create(t, ...how) {
  const sandbox = await Sandbox.create(...how)
  t.after(() => sandbox.kill())
  return sandbox
}

// A sandbox that all tests of a file use; for the file's top level.
export async function shared(how = {}, Class = Sandbox) {
  const sandbox = await Class.create({ timeoutMs: 300_000, ...how })
  after(() => sandbox.kill())
  return sandbox
}

// Ask again until the answer is true, and fail when it never is.
export async function until(question, what = () => question) {
  const deadline = Date.now() + PATIENCE_MS
  for (;;) {
    const answer = await question()
    if (answer) return answer
    assert.ok(Date.now() < deadline, `never came true: ${what()}`)
    await sleep(50)
  }
}

// What the test's runner says in the environment.
export function setting(name) {
  assert.ok(process.env[name], `${name} is not set`)
  return process.env[name]
}

// An object of plain values, for comparison: without what was not set.
export const plain = (object) => JSON.parse(JSON.stringify(object))
