/** Big jobs: what holds up its request longest takes the processors of its machine that become free. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { BIG_PART } from '../../src/scheduler/claims.ts'
import { isLive } from '../../src/scheduler/model.ts'
import { derivation, GIB } from './samples.ts'
import { MalleableWorld } from './malleable-world.ts'
import { teach } from './teach.ts'
import { TreeWorld } from './tree-world.ts'
import { liveOf, World, type WorldNode } from './world.ts'

const MINUTE_MS = 60_000

const wide = derivation('wide', { cpus: 1, cpusMax: 8 })
const small = (count: number) => Array.from({ length: count }, (_, at) => derivation(`s${at}`))

function has(world: World, request: string, name: string): number | undefined {
  return liveOf(world.step(request, name))[0]?.allotted
}

/** The first of the small ones that run ends. */
function endOne(node: WorldNode): void {
  const name = node.names.find((each) => each.startsWith('s'))
  assert(name !== undefined)
  node.build(node.grantOf(name).attempt.id)
}

/** A wide job of 40 minutes that has run before, beside small ones that wait. */
function busyWorld(count = 40): { world: World; node: WorldNode } {
  const world = new World()
  teach(world, [wide], 40 * MINUTE_MS)
  teach(world, small(count), MINUTE_MS)
  const node = world.node('n1', { cpus: 8 })
  world.submit('r', [wide, ...small(count)])
  node.take()
  world.pass(2_000)
  return { world, node }
}

test('repartition: a big job keeps most of its machine before small ones that hold up less', () => {
  const { world, node } = busyWorld()
  assert.equal(has(world, 'r', 'wide'), 8 * BIG_PART)
  assert.equal(node.running.size, 3, 'the others have a part of it all the same')
  endOne(node)
  world.pass(2_000)
  assert.equal(has(world, 'r', 'wide'), 6)
  assert.equal(node.running.size, 3)
})

test('repartition: one that starts on a full machine grows as its neighbours end', () => {
  const world = new World()
  teach(world, [wide], 40 * MINUTE_MS)
  teach(world, small(60), MINUTE_MS)
  const node = world.node('n1', { cpus: 8 })
  world.submit('first', small(7), { priority: 51 })
  node.take()
  world.submit('r', [wide, ...small(60).slice(7)])
  node.take()
  assert.equal(has(world, 'r', 'wide'), 1)
  const seen: (number | undefined)[] = []
  for (let at = 0; at < 7; at += 1) {
    endOne(node)
    world.pass(2_000)
    seen.push(has(world, 'r', 'wide'))
  }
  assert.deepEqual(seen, [2, 3, 4, 5, 6, 6, 6])
  assert.equal(node.entry.allocated.cpus, 8)
})

test('repartition: what goes before it by priority has its room at once', () => {
  const { world, node } = busyWorld()
  world.submit('urgent', [derivation('u1'), derivation('u2'), derivation('u3')], { priority: 90 })
  world.pass(4_000)
  assert.deepEqual(
    ['u1', 'u2', 'u3'].map((name) => has(world, 'urgent', name)),
    [1, 1, 1],
  )
  assert.equal(has(world, 'r', 'wide'), 3)
  assert.equal(node.entry.allocated.cpus, 8)
})

test('repartition: the user who has had less is not passed over, and both end up with as much', () => {
  const world = new World()
  teach(world, [wide], 40 * MINUTE_MS)
  const others = small(40)
  teach(world, others, MINUTE_MS)
  const node = world.node('n1', { cpus: 8 })
  world.submit('r', [wide], { user: 'ann' })
  node.take()
  assert.equal(has(world, 'r', 'wide'), 8)
  world.submit('s', others, { user: 'bob' })
  world.pass(10_000)
  const hers = has(world, 'r', 'wide') ?? 0
  assert(Math.abs(hers - (8 - hers)) <= 2, `she has ${hers} of 8`)
})

test('repartition: a job of which nothing was learnt, a short one, and one that is overdue give way as any other', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 8 })
  world.submit('r', [wide, ...small(40)])
  node.take()
  world.pass(6_000)
  assert.equal(has(world, 'r', 'wide'), 1, 'nothing was learnt')

  const short = new World()
  teach(short, [wide], 30_000)
  teach(short, small(40), 1_000)
  const shortNode = short.node('n1', { cpus: 8 })
  short.submit('r', [wide, ...small(40)])
  shortNode.take()
  short.pass(6_000)
  assert.equal(has(short, 'r', 'wide'), 1, 'it ends soon')

  const late = new World()
  teach(late, [wide], 2 * MINUTE_MS)
  teach(late, small(4), 1_000)
  const lateNode = late.node('n1', { cpus: 8 })
  late.submit('r', [wide, ...small(4)])
  lateNode.take()
  late.pass(5 * MINUTE_MS)
  late.submit('s', small(40).slice(4))
  late.pass(6_000)
  assert.equal(has(late, 'r', 'wide'), 1, 'it takes twice what it ever took')
})

test('repartition: while the rest of the request takes longer anyhow nothing stands back', () => {
  const world = new World()
  teach(world, [wide], 4 * MINUTE_MS)
  teach(world, small(400), 3 * MINUTE_MS)
  const node = world.node('n1', { cpus: 8 })
  world.submit('r', [wide, ...small(400)])
  node.take()
  world.pass(6_000)
  assert.equal(has(world, 'r', 'wide'), 1)
})

test('repartition: what waits on a longer way goes before it', () => {
  const world = new World()
  teach(world, [wide], 10 * MINUTE_MS)
  const first = derivation('first')
  const second = derivation('second', { after: ['first'] })
  teach(world, [first, second], 20 * MINUTE_MS)
  const node = world.node('n1', { cpus: 8 })
  world.submit('r', [wide])
  node.take()
  assert.equal(has(world, 'r', 'wide'), 8)
  world.submit('s', [first, second])
  world.pass(2_000)
  assert.deepEqual([has(world, 'r', 'wide'), has(world, 's', 'first')], [7, 1])
})

test('repartition: of two big jobs on one machine the one with the longer way comes first, both within the part', () => {
  const world = new World()
  const other = derivation('other', { cpus: 1, cpusMax: 8 })
  teach(world, [wide], 40 * MINUTE_MS)
  teach(world, [other], 30 * MINUTE_MS)
  teach(world, small(40), MINUTE_MS)
  const node = world.node('n1', { cpus: 8 })
  world.submit('r', [wide, other, ...small(40)])
  node.take()
  world.pass(4_000)
  const both = [has(world, 'r', 'wide') ?? 0, has(world, 'r', 'other') ?? 0]
  assert(both[0] !== undefined && both[1] !== undefined)
  assert(both[0] + both[1] <= 6, both.join())
  assert(both[0] > both[1], both.join())
})

test('repartition: a machine that is kept for a big job is so only in part', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 8, memoryBytes: 16 * GIB })
  const hog = derivation('hog', { memoryBytes: 12 * GIB })
  const big = derivation('big', { cpus: 2, memoryBytes: 10 * GIB })
  world.submit('h', [hog])
  node.take()
  world.submit('b', [big])
  // Others that ask for less go on before it, until a machine is kept for it.
  const filler = Array.from({ length: 60 }, (_, at) => derivation(`f${at}`, { memoryBytes: GIB }))
  world.submit('f', filler)
  for (let at = 0; at < 40; at += 1) {
    world.pass(1_000)
    const name = node.names.find((each) => each.startsWith('f'))
    if (name !== undefined) node.build(node.grantOf(name).attempt.id)
  }
  assert.equal(world.scheduler.reservations.count, 1)
  world.submit('s', small(12))
  world.pass(3_000)
  const names = node.names.filter((name) => name.startsWith('s'))
  assert.equal(names.length, 5, 'all but the processors that it needs, for what needs no memory')
  node.build(node.grantOf('hog').attempt.id)
  world.pass(6_000)
  assert(node.names.includes('big'), 'it has waited for nobody')
})

test('repartition: below a subtree too, as the owner says', () => {
  const world = new TreeWorld()
  const root = world.node('root')
  const middle = world.node('middle', { parent: root })
  const [leaf] = [1, 2].map((at) =>
    world.node(`leaf${at}`, { parent: middle, cpus: at === 1 ? 8 : 1 }),
  )
  const { estimates } = root.scheduler.state
  for (let count = 0; count < 3; count += 1)
    for (const each of [wide, ...small(40)])
      estimates.learn([each], {
        kind: 'done',
        durationMs: each === wide ? 40 * MINUTE_MS : MINUTE_MS,
        memoryBytes: 0,
        diskBytes: 0,
        cpuShare: 1,
      })
  world.pass(25_000)
  root.submit('r', [wide, ...small(40)])
  world.pass(10_000)
  const relayed = middle.relayed.find(({ lease }) => lease?.name === 'wide')
  assert.equal(relayed?.claim?.why, 'big')
  assert.equal(relayed.reserved.cpus, 6)
  assert.equal(leaf?.names.filter((name) => name !== 'wide').length, 2)
  assert.equal(liveOf(root.step('r', 'wide'))[0]?.allotted, 6)
})

test('repartition: whatever comes and goes, big or not, the node stays in its capacity and all of it ends', () => {
  const job = fc.record({
    min: fc.integer({ min: 1, max: 3 }),
    more: fc.integer({ min: 0, max: 8 }),
    minutes: fc.integer({ min: 0, max: 30 }),
    user: fc.constantFrom('ann', 'bob'),
    priority: fc.constantFrom(40, 50),
    at: fc.integer({ min: 0, max: 4 }),
    ends: fc.boolean(),
  })
  fc.assert(
    fc.property(fc.array(job, { maxLength: 16 }), fc.integer({ min: 3, max: 12 }), (jobs, cpus) => {
      const world = new World()
      const node = world.node('n1', { cpus })
      for (const [index, { min, more, minutes, user, priority, at, ends }] of jobs.entries()) {
        const each = derivation(`d${index}`, { cpus: min, cpusMax: min + more })
        if (minutes > 0) teach(world, [each], minutes * MINUTE_MS)
        world.submit(`r${index}`, [each], { user, priority })
        world.pass(at * 700)
        node.take()
        const [oldest] = node.attempts
        if (ends && oldest !== undefined) node.build(oldest)
        let sum = 0
        for (const attempt of node.entry.attempts) if (isLive(attempt)) sum += attempt.allotted
        assert(sum <= cpus, `${sum} of ${cpus}`)
        assert.equal(node.entry.allocated.cpus, sum)
      }
      for (let round = 0; round < 60 && world.scheduler.queues.jobCount > 0; round += 1) {
        world.pass(3_000)
        node.take()
        const [oldest] = node.attempts
        if (oldest !== undefined) node.build(oldest)
      }
      assert.equal(world.scheduler.queues.jobCount, 0)
    }),
    { numRuns: 60 },
  )
})

test('repartition: a wide job of forty minutes beside five hundred small ones ends sooner, and they hardly later', () => {
  const run = (isBig: boolean): { wide: number; small: number } => {
    const farm = new MalleableWorld()
    for (let at = 0; at < 4; at += 1) farm.world.node(`n${at}`, { cpus: 8 })
    const others = small(500)
    const cpuMs = 40 * 8 * MINUTE_MS
    farm.setWork(wide, cpuMs)
    for (const [at, each] of others.entries()) {
      const ms = (30 + ((at * 37) % 61)) * 1_000
      farm.setWork(each, ms)
      farm.teach(each, ms, 1)
    }
    // What was not learnt is not big.
    if (isBig) farm.teach(wide, cpuMs, 8)
    const startMs = farm.world.nowMs
    farm.world.submit('r', [wide, ...others])
    assert(farm.run(['wide', ...others.map(({ name }) => name)], 120 * MINUTE_MS))
    assert(farm.busyMax <= 8)
    const ends = others.map(({ name }) => farm.endedAtMs.get(name) ?? 0)
    return {
      wide: (farm.endedAtMs.get('wide') ?? 0) - startMs,
      small: Math.max(...ends) - startMs,
    }
  }
  const before = run(false)
  const after = run(true)
  assert(after.wide < before.wide * 0.88, `${after.wide} of ${before.wide}`)
  assert(after.small < before.small * 1.25, `${after.small} of ${before.small}`)
})
