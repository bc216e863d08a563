/** Which of the waiting jobs starts when a node has room. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { derivation } from './samples.ts'
import { teach } from './teach.ts'
import { World, type WorldNode } from './world.ts'

const MINUTE = 60_000

/** The one job that the node runs ends after a second. */
function end(node: WorldNode): void {
  const usage = { wallMs: 1_000, cpuMs: 1_000, maxRssBytes: 1024 }
  node.build(undefined, undefined, { usage })
}

/** Names in the order in which a node with one processor runs them. */
function runAll(world: World, count: number): string[] {
  const [node] = world.nodes
  assert(node !== undefined)
  const names: string[] = []
  for (let at = 0; at < count; at += 1) {
    node.take()
    names.push(...node.names)
    world.pass(1_000)
    end(node)
  }
  return names
}

test('order: the one job of a user is next, whatever another one has queued before', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit(
    'flood',
    Array.from({ length: 10_000 }, (_, at) => derivation(`flood-${at}`)),
    { user: 'a' },
  )
  world.submit('single', [derivation('single')], { user: 'b' })
  node.take()
  world.pass(1_000)
  end(node)
  assert.deepEqual(node.names, ['single'])
})

test('order: two users who flood the mesh get equal parts of it', () => {
  const world = new World()
  world.node('n1', { cpus: 1 })
  for (const user of ['a', 'b'])
    world.submit(
      user,
      Array.from({ length: 40 }, (_, at) => derivation(`${user}${at}`)),
      { user },
    )
  const first = runAll(world, 20)
  const count = first.filter((name) => name.startsWith('a')).length
  assert(count >= 8 && count <= 12, `${count} of 20 were a's`)
})

test('order: a job of two users stands under the one who has had less', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('busy', [derivation('long')], { user: 'a' })
  world.submit('mine', [derivation('mine')], { user: 'a' })
  world.submit('also', [derivation('shared')], { user: 'a' })
  world.submit('b', [derivation('shared')], { user: 'b' })
  node.take()
  world.pass(1_000)
  end(node)
  assert.deepEqual(node.names, ['shared'])
})

test('order: a low priority grows with its age, so that what is always new cannot keep it waiting', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  const wallMs = (): number => world.moment.wallMs
  world.submit('first', [derivation('first')], { submittedAtWall: wallMs() })
  world.submit('low', [derivation('low')], { priority: 10, submittedAtWall: wallMs() })
  const order: string[] = []
  for (let at = 0; at < 60 && !order.includes('low'); at += 1) {
    world.submit(`high${at}`, [derivation(`high${at}`)], {
      priority: 40,
      submittedAtWall: wallMs(),
    })
    world.pass(MINUTE)
    node.take()
    order.push(...node.names)
    node.build()
  }
  const turn = order.indexOf('low')
  assert(turn > 25 && turn <= 32, `it was started as number ${turn}`)
})

test('order: within a minute the priority decides, whoever came first', () => {
  const world = new World()
  world.node('n1', { cpus: 1 })
  world.submit('r0', [derivation('running')])
  world.submit('r1', [derivation('low')], { priority: 10 })
  world.submit('r2', [derivation('high')], { priority: 90 })
  assert.deepEqual(runAll(world, 3), ['running', 'high', 'low'])
})

test('order: what holds up most of its graph goes first, by what its steps are known to take', () => {
  const world = new World()
  const short = [derivation('a1'), derivation('a2', { after: ['a1'] })]
  const long = [derivation('b1'), derivation('b2', { after: ['b1'] })]
  teach(world, [derivation('a1'), derivation('b1'), derivation('a2')], 1_000)
  teach(world, [derivation('b2')], 60_000)
  world.node('n1', { cpus: 1 })
  world.submit('r0', [derivation('running')])
  world.submit('r1', short)
  world.submit('r2', long)
  assert.deepEqual(runAll(world, 2), ['running', 'b1'])
})

test('order: of jobs that hold up nothing the longest goes first', () => {
  const world = new World()
  const names = ['short', 'long', 'middle']
  const ms = [1_000, 100_000, 10_000]
  for (const [at, name] of names.entries()) teach(world, [derivation(name)], ms[at] ?? 0)
  world.node('n1', { cpus: 1 })
  world.submit('r0', [derivation('running')])
  world.submit(
    'r1',
    names.map((name) => derivation(name)),
  )
  assert.deepEqual(runAll(world, 4), ['running', 'long', 'middle', 'short'])
})

test('order: a job that was given more priority while it waits moves to its new place', () => {
  const world = new World()
  world.node('n1', { cpus: 1 })
  world.submit('r0', [derivation('running')])
  world.submit('r1', [derivation('a'), derivation('b'), derivation('c')])
  const step = world.step('r1', 'c')
  step.boost = 99
  // The sweep judges anew what nobody told it of.
  world.pass(6_000)
  assert.deepEqual(runAll(world, 4), ['running', 'c', 'a', 'b'])
})

test('order: what waits can tell its place, and whose share comes first', () => {
  const world = new World()
  world.node('n1', { cpus: 1 })
  world.submit('r0', [derivation('running')], { user: 'a' })
  world.submit('r1', [derivation('x'), derivation('y')], { user: 'a' })
  world.submit('r2', [derivation('z')], { user: 'b' })
  const stateOf = (request: string, name: string) => {
    const job = world.step(request, name).job
    assert(job !== undefined)
    return world.scheduler.placement.stateOf(job)
  }
  assert.deepEqual(stateOf('r2', 'z'), { kind: 'position', n: 1, of: 3 })
  assert.deepEqual(stateOf('r1', 'x'), { kind: 'share', user: 'a', ahead: 'b', n: 2, of: 3 })
  assert.deepEqual(stateOf('r1', 'y'), { kind: 'share', user: 'a', ahead: 'b', n: 3, of: 3 })
  assert.equal(stateOf('r0', 'running'), undefined)
})
