/** Second runs of what takes much longer than it should. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LATE_MS_MIN } from '../../src/scheduler/stragglers.ts'
import { derivation, environment, type DerivationOptions } from './samples.ts'
import { teach } from './teach.ts'
import { liveOf, World, type WorldNode } from './world.ts'

const USAGE = { wallMs: 100_000, cpuMs: 100_000, maxRssBytes: 1024 }

/** A job of 20 s that began on a slow node while the fast one was not there. */
function lateOne(options: DerivationOptions = {}): {
  world: World
  slow: WorldNode
  fast: WorldNode
} {
  const world = new World()
  const slow = world.node('slow', { speed: 1, cpus: 4 })
  const made = derivation('a', options)
  teach(world, [made], 20_000)
  world.submit('r', [made])
  slow.take()
  const fast = world.node('fast', { speed: 2, cpus: 4 })
  return { world, slow, fast }
}

test('stragglers: what is late gets one second run on a faster node, and the first result counts', () => {
  const { world, slow, fast } = lateOne()
  world.pass(LATE_MS_MIN - 1_000)
  assert.equal(liveOf(world.step('r', 'a')).length, 1)
  world.pass(10_000)
  assert.deepEqual([slow.names, fast.names], [['a'], ['a']])
  world.pass(60_000)
  assert.equal(world.grantCount, 2)
  const [first, second] = liveOf(world.step('r', 'a'))
  assert.equal(first?.action, second?.action)
  fast.build(undefined, undefined, { usage: USAGE })
  assert.equal(world.request('r').state, 'done')
  assert.deepEqual(
    world.step('r', 'a').job?.attempts.map(({ state }) => state),
    ['superseded', 'done'],
  )
  slow.take()
  assert.deepEqual([slow.names, slow.entry.allocated.cpus, fast.entry.allocated.cpus], [[], 0, 0])
})

test('stragglers: both end at the same moment: one result is kept, and nothing is counted twice', () => {
  const { world, slow, fast } = lateOne()
  world.pass(40_000)
  const usedBefore = world.scheduler.shares.view()[0]?.usedCpuMs ?? 0
  slow.isSilent = true
  fast.isSilent = true
  slow.build(undefined, undefined, { usage: USAGE })
  fast.build(undefined, undefined, { usage: USAGE })
  slow.isSilent = false
  fast.isSilent = false
  slow.tell()
  fast.tell()
  assert.equal(world.request('r').state, 'done')
  assert.deepEqual(
    world.step('r', 'a').job?.attempts.map(({ state }) => state),
    ['done', 'superseded'],
  )
  assert.equal(world.cache.size, 1)
  assert.equal([...world.cache.values()][0]?.length, 1)
  const used = (world.scheduler.shares.view()[0]?.usedCpuMs ?? 0) - usedBefore
  assert(used > 0 && used <= USAGE.cpuMs, `${used} ms were charged`)
  assert.deepEqual([slow.entry.allocated.cpus, fast.entry.allocated.cpus], [0, 0])
  assert.deepEqual([slow.finished.size, fast.finished.size], [0, 0])
})

test('stragglers: one of the two runs is lost: the other goes on', () => {
  const { world, slow, fast } = lateOne()
  world.pass(40_000)
  fast.restart()
  assert.deepEqual(
    liveOf(world.step('r', 'a')).map(({ node }) => node.name),
    ['slow'],
  )
  slow.build(undefined, undefined, { usage: USAGE })
  assert.equal(world.request('r').state, 'done')
})

test('stragglers: there is none while something waits that the node could run if it had more room', () => {
  for (const waits of [false, true]) {
    const world = new World()
    const slow = world.node('slow', { speed: 1, cpus: 1 })
    teach(world, [derivation('a')], 20_000)
    world.submit('r', [derivation('a')])
    slow.take()
    const fast = world.node('fast', { speed: 2, cpus: 6 })
    world.submit('w1', [derivation('w1', { cpus: 4 })])
    if (waits) world.submit('w2', [derivation('w2', { cpus: 4 })])
    fast.take()
    // Two processors are free there.
    world.pass(60_000)
    assert.deepEqual(fast.names, waits ? ['w1'] : ['w1', 'a'])
  }
})

test('stragglers: there is none for what runs without walls, or of which too little is known', () => {
  const world = new World()
  const environments = [environment({ isolation: 'host' })]
  const slow = world.node('slow', { environments })
  const open = derivation('open', { sealed: false })
  const seldom = derivation('seldom')
  teach(world, [open], 20_000)
  teach(world, [seldom], 20_000, { count: 2 })
  world.submit('open', [open])
  slow.take()
  const other = world.node('other')
  world.submit('seldom', [seldom])
  other.take()
  world.node('fast', { speed: 4, environments: [...environments, environment()] })
  world.pass(120_000)
  assert.deepEqual([slow.names, other.names], [['open'], ['seldom']])
  assert.equal(world.grantCount, 2)
})

test('stragglers: there is none on a node that would give another action, or is no faster', () => {
  const { world, fast } = lateOne()
  fast.environments = [environment({ base: 'b' })]
  fast.tell()
  world.node('same', { speed: 1 })
  world.pass(31_000)
  assert.equal(liveOf(world.step('r', 'a')).length, 1)
  assert.deepEqual(fast.names, [])
})

test('stragglers: second runs take a twentieth of the processors at most, but one may always be', () => {
  const world = new World()
  const slow = world.node('slow', { speed: 1, cpus: 20 })
  const names = Array.from({ length: 10 }, (_, at) => `late${at}`)
  const made = names.map((name) => derivation(name))
  for (const each of made) teach(world, [each], 20_000)
  world.submit('r', made)
  slow.take()
  world.node('fast', { speed: 2, cpus: 40 })
  world.pass(90_000)
  // 5 % of 60 are 3.
  assert.equal(world.grantCount, 10 + 3)
})
