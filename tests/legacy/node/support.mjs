// What the programs share. They run with the packages of 2024 and nothing else, as a user's program would.
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'

const PATIENCE_MS = 40_000

// Ask until the answer is true; returns it.
export async function until(question, what = () => question) {
  const deadline = Date.now() + PATIENCE_MS
  for (;;) {
    const answer = await question()
    if (answer) return answer
    assert.ok(Date.now() < deadline, `never came true: ${what()}`)
    await sleep(100)
  }
}

export const idsOf = async (Class) => new Map((await Class.list()).map((item) => [item.sandboxID, item]))
