/** Jobs for nodes that speak for a subtree: what they offer is what can be granted to them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { requirementOf } from '../../src/scheduler/match.ts'
import { classOf } from '../../src/scheduler/requirement-wire.ts'
import type { SyncMessage } from '../../src/wire/work-messages.ts'
import { derivation, environment, GIB } from './samples.ts'
import { teach } from './teach.ts'
import { liveOf, World, type WorldNode } from './world.ts'

interface Offered {
  readonly slots?: number
  readonly count: number
  readonly speed?: number
  readonly freeInMs?: number
}

/** The node says what its subtree could take of the class that the waiting step is of. */
function offer(world: World, node: WorldNode, seq: number, name: string, offered: Offered): void {
  const step = world.step(name, name)
  const requirement = requirementOf([step])
  const message: SyncMessage = {
    type: 'sync',
    seq,
    ackSeq: seq,
    state: 'ready',
    note: '',
    environments: [environment()],
    capacity: { cpus: 64, memoryBytes: 64 * GIB, diskBytes: 64 * GIB },
    running: [],
    finished: [],
    bundle: {
      slots: offered.slots ?? offered.count,
      cpus: { total: 64, busy: 0 },
      offers: [
        {
          class: classOf(requirement),
          environment: 0,
          count: offered.count,
          speed: offered.speed ?? 1,
          freeInMs: offered.freeInMs ?? 0,
        },
      ],
    },
  }
  world.apply({ type: 'sync', peerId: node.peerId, message, results: new Map() })
}

const nodeOf = (world: World, name: string): string | undefined =>
  liveOf(world.step(name, name))[0]?.node.name

const submit = (world: World, name: string): void => {
  world.submit(name, [derivation(name)])
}

test('subtrees: no more is granted to one than it has offered, until it says more', () => {
  const world = new World()
  const middle = world.node('middle', { environments: [] })
  for (const name of ['a', 'b', 'c']) submit(world, name)
  offer(world, middle, 10, 'a', { count: 2 })
  assert.deepEqual(
    ['a', 'b', 'c'].map((name) => nodeOf(world, name)),
    ['middle', 'middle', undefined],
  )
  assert.equal(middle.entry.allocated.cpus >= 0, true)
  offer(world, middle, 11, 'c', { count: 3 })
  assert.equal(nodeOf(world, 'c'), 'middle')
})

test('subtrees: the faster of a subtree and a node of its own is taken', () => {
  const world = new World()
  const middle = world.node('middle', { environments: [] })
  submit(world, 'a')
  submit(world, 'b')
  assert.equal(nodeOf(world, 'a'), undefined)
  teach(world, [derivation('a'), derivation('b')], 30_000)
  const own = world.node('own', { speed: 2, cpus: 1, environments: [environment({ base: 'b' })] })
  assert.equal(nodeOf(world, 'a'), 'own')
  offer(world, middle, 10, 'b', { count: 1, speed: 4 })
  assert.equal(nodeOf(world, 'b'), 'middle')
  assert.equal(own.entry.allocated.cpus, 1)
})

test('subtrees: a slow free node is declined for a subtree that will have a faster one soon', () => {
  const world = new World()
  const middle = world.node('middle', { environments: [] })
  submit(world, 'a')
  teach(world, [derivation('a')], 60_000)
  offer(world, middle, 10, 'a', { slots: 1, count: 0, speed: 4, freeInMs: 5_000 })
  world.node('slow', { speed: 1 })
  assert.equal(nodeOf(world, 'a'), undefined)
  const { job } = world.step('a', 'a')
  assert(job !== undefined)
  assert.equal(world.scheduler.placement.stateOf(job)?.kind, 'held-for')
  offer(world, middle, 11, 'a', { count: 1, speed: 4 })
  assert.equal(nodeOf(world, 'a'), 'middle')
})
