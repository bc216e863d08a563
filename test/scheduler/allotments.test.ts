/** Processors of running attempts: they give way to what waits, and take what nobody else could use. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isLive } from '../../src/scheduler/model.ts'
import { derivation, GIB } from './samples.ts'
import { liveOf, World, type WorldNode } from './world.ts'

const wide = (name: string, cpus: number, cpusMax: number) => derivation(name, { cpus, cpusMax })

function allotted(world: World, name: string): number | undefined {
  return liveOf(world.step('r', name))[0]?.allotted
}

/** What the node was told that the only attempt of the derivation should use. */
function told(node: WorldNode, world: World, name: string): number | undefined {
  const [attempt] = liveOf(world.step('r', name))
  return attempt === undefined ? undefined : node.allotments.get(attempt.id)
}

test('allotments: a job gets what is free in its range, and gives way to one that comes later', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 8 })
  world.submit('r', [wide('wide', 2, 16)])
  node.take()
  assert.equal(allotted(world, 'wide'), 8)
  world.pass(2_000)
  assert.equal(told(node, world, 'wide'), 8)
  world.submit('s', [derivation('narrow', { cpus: 3 })])
  world.pass(1_000)
  assert.equal(allotted(world, 'wide'), 5)
  assert.equal(told(node, world, 'wide'), 5)
  assert.deepEqual(node.names.toSorted(), ['narrow', 'wide'])
  assert.equal(node.entry.allocated.cpus, 8)
})

test('allotments: what is free again goes to those that run, but for what waits', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 8 })
  world.submit('r', [wide('wide', 1, 6), derivation('narrow', { cpus: 4 })])
  world.pass(2_000)
  assert.equal(allotted(world, 'wide'), 4)
  node.build(node.grantOf('narrow').attempt.id)
  world.pass(2_000)
  assert.equal(allotted(world, 'wide'), 6, 'no more than its most')
  assert.equal(told(node, world, 'wide'), 6)
  assert.equal(node.entry.allocated.cpus, 6)
})

test('allotments: several that are granted at once share what there is', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 8 })
  world.submit(
    'r',
    ['a', 'b', 'c', 'd'].map((name) => wide(name, 1, 8)),
  )
  node.take()
  world.pass(3_000)
  assert.equal(node.running.size, 4)
  const cpus = ['a', 'b', 'c', 'd'].map((name) => allotted(world, name) ?? 0)
  assert.equal(
    cpus.reduce((sum, each) => sum + each),
    8,
  )
  assert(Math.min(...cpus) >= 1)
})

test('allotments: nothing shrinks for a job that could not start there anyhow', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 8, memoryBytes: 4 * GIB })
  world.submit('r', [derivation('wide', { cpus: 1, cpusMax: 8, memoryBytes: 3 * GIB })])
  node.take()
  world.submit('s', [derivation('big', { cpus: 2, memoryBytes: 2 * GIB })])
  world.submit('t', [derivation('elsewhere', { features: ['gpu'] })])
  world.submit('u', [derivation('huge', { cpus: 9 })])
  world.pass(5_000)
  assert.equal(allotted(world, 'wide'), 8)
})

test('allotments: a running attempt changes at most once a second', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 8 })
  world.submit('r', [wide('wide', 1, 8)])
  node.take()
  world.pass(2_000)
  world.submit('s', [derivation('first')])
  assert.equal(allotted(world, 'wide'), 7)
  world.submit('t', [derivation('second')])
  assert.equal(allotted(world, 'wide'), 7, 'it was changed just now')
  world.pass(900)
  assert.equal(allotted(world, 'wide'), 7)
  world.pass(1_000)
  assert.equal(allotted(world, 'wide'), 6)
  assert.equal(node.running.size, 3)
})

test('allotments: a node that has less than it runs ends nothing, begins nothing, and its wide jobs shrink', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 8 })
  world.submit('r', [wide('wide', 2, 5), derivation('narrow', { cpus: 3 })])
  node.take()
  world.pass(2_000)
  assert.deepEqual([allotted(world, 'wide'), node.running.size], [5, 2])
  node.capacity = { ...node.capacity, cpus: 4 }
  node.tell()
  world.submit('s', [derivation('later')])
  world.pass(3_000)
  assert.equal(node.running.size, 2)
  assert.equal(allotted(world, 'wide'), 2, 'down to its least and no further')
  assert.equal(told(node, world, 'wide'), 2)
  assert.equal(node.entry.allocated.cpus, 5)
  node.capacity = { ...node.capacity, cpus: 8 }
  world.pass(3_000)
  assert.equal(node.running.size, 3)
  assert.equal(allotted(world, 'wide'), 4)
})

test('allotments: a restart of the owner begins with what was granted, and the node is told so', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 8 })
  world.submit('r', [wide('wide', 2, 8)])
  node.take()
  world.pass(2_000)
  world.submit('s', [derivation('narrow', { cpus: 3 })])
  world.pass(2_000)
  assert.equal(allotted(world, 'wide'), 5)
  world.restart()
  node.up()
  world.pass(2_000)
  assert.equal(node.running.size, 2)
  assert.equal(allotted(world, 'wide'), 5, 'it shrank again: the other still runs')
  assert.equal(node.entry.allocated.cpus, 8)
})

test('allotments: whatever comes and goes, all stay in their range and the node in its capacity', () => {
  const jobs = fc.record({
    min: fc.integer({ min: 1, max: 4 }),
    more: fc.integer({ min: 0, max: 8 }),
    at: fc.integer({ min: 0, max: 5 }),
    ends: fc.boolean(),
  })
  fc.assert(
    fc.property(
      fc.array(jobs, { maxLength: 14 }),
      fc.integer({ min: 4, max: 12 }),
      (list, cpus) => {
        const world = new World()
        const node = world.node('n1', { cpus })
        for (const [index, { min, more, at, ends }] of list.entries()) {
          world.submit(`r${index}`, [wide(`d${index}`, min, min + more)])
          world.pass(at * 400)
          node.take()
          const [oldest] = node.attempts
          if (ends && oldest !== undefined) node.build(oldest)
          let sum = 0
          for (const attempt of node.entry.attempts) {
            if (!isLive(attempt)) continue
            const needs = [...attempt.job.waiters][0]?.derivation.needs.cpus
            assert(needs !== undefined)
            assert(attempt.allotted >= needs.min && attempt.allotted <= needs.max)
            sum += attempt.allotted
          }
          assert(sum <= cpus, `${sum} of ${cpus}`)
          assert.equal(node.entry.allocated.cpus, sum)
        }
        // Nothing that waits could start by what others have beyond their least.
        world.pass(5_000)
        let least = 0
        for (const attempt of node.entry.attempts)
          least += [...attempt.job.waiters][0]?.derivation.needs.cpus.min ?? 0
        for (const queue of world.scheduler.queues.all)
          assert(queue.requirement.cpusMin > cpus - least, 'room could be made')
      },
    ),
    { numRuns: 60 },
  )
})
