/** How fast nodes are taken to be: what they say, refined by what is seen, and never beyond reason. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { derivation } from './samples.ts'
import { World, type WorldNode } from './world.ts'

let count = 0
/** Multiples of it are spread evenly over an interval. */
const GOLDEN = (Math.sqrt(5) - 1) / 2

/** One job of the derivation `a` takes `wallMs` on the node, which is the only one with room. */
function run(world: World, node: WorldNode, wallMs: number): void {
  world.submit(`r${(count += 1)}`, [derivation('a', { sources: [`${count}`] })])
  node.take()
  node.build(undefined, undefined, { usage: { wallMs, cpuMs: 0, maxRssBytes: 0 } })
}

test('node speed: it is what the node measured, within bounds; one that says nothing is the reference', () => {
  const world = new World()
  assert.equal(world.node('plain').entry.speed, 1)
  assert.equal(world.node('fast', { speed: 2.5 }).entry.speed, 2.5)
  assert.equal(world.node('liar', { speed: 1e9 }).entry.speed, 20)
  assert.equal(world.node('negative', { speed: -3 }).entry.speed, 0.05)
})

test('node speed: a node that takes twice as long as expected comes to count as slower', () => {
  const world = new World()
  const teacher = world.node('teacher', { cpus: 1 })
  for (let at = 0; at < 30; at += 1) run(world, teacher, 10_000)
  teacher.down()
  const slow = world.node('slow', { cpus: 1, speed: 1 })
  let before = slow.entry.speed
  for (let at = 0; at < 8; at += 1) {
    run(world, slow, 20_000)
    assert(slow.entry.speed <= before)
    before = slow.entry.speed
  }
  assert(before < 0.7, String(before))
})

test('node speed: equal machines stay about equal when what they run differs widely by itself', () => {
  const world = new World()
  const node = world.node('n', { cpus: 1, speed: 1 })
  // The same derivation takes from a second to minutes, evenly in logarithms.
  for (let at = 0; at < 300; at += 1) {
    const share = (at * GOLDEN) % 1
    run(world, node, Math.round(1_000 * Math.exp(5 * share)))
    assert.equal(node.entry.speed, 1)
  }
})

test('node speed: whatever durations are told, it stays near what was measured', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 2 ** 50 }), { maxLength: 30 }),
      fc.double({ min: 0.01, max: 100, noNaN: true }),
      (durations, speed) => {
        const world = new World()
        const node = world.node('n', { cpus: 1, speed })
        const told = node.entry.speed
        for (const wallMs of durations) {
          run(world, node, wallMs)
          const now = node.entry.speed
          assert(now >= Math.max(0.05, told / 4) - 1e-9 && now <= Math.min(20, told * 4) + 1e-9)
        }
      },
    ),
    { numRuns: 30 },
  )
})
