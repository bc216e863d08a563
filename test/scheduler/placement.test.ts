/** Where a job starts: the node on which it ends first, also when that is busy now. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { canStart, requirementOf } from '../../src/scheduler/match.ts'
import type { Job, NodeEntry } from '../../src/scheduler/model.ts'
import { HOLD_MS_MAX, NEAR_MS_MAX } from '../../src/scheduler/holding.ts'
import type { PlaceState } from '../../src/scheduler/placement.ts'
import { isOpen } from '../../src/scheduler/kinds.ts'
import { derivation, environment, fileEntry, GIB, peerOf, sha } from './samples.ts'
import { teach } from './teach.ts'
import { liveOf, World, type WorldNode } from './world.ts'

const MIB = 2 ** 20

function jobOf(world: World, request: string, name = request): Job {
  const { job } = world.step(request, name)
  assert(job !== undefined)
  return job
}

function stateOf(world: World, request: string, name = request): PlaceState | undefined {
  return world.scheduler.placement.stateOf(jobOf(world, request, name))
}

/** The node that runs the step; undefined while it waits. */
function nodeOf(world: World, request: string, name = request): string | undefined {
  return liveOf(world.step(request, name))[0]?.node.name
}

const submit = (world: World, name: string, options: Parameters<typeof derivation>[1] = {}) =>
  world.submit(name, [derivation(name, options)])

test('placement: with nothing learnt the fastest free node is taken, then the one with most free', () => {
  const world = new World()
  world.node('slow', { speed: 1, cpus: 8 })
  world.node('fast', { speed: 2, cpus: 2 })
  world.node('fast-too', { speed: 2, cpus: 4 })
  for (const name of ['a', 'b', 'c']) submit(world, name)
  assert.deepEqual(
    ['a', 'b', 'c'].map((name) => nodeOf(world, name)),
    ['fast', 'fast-too', 'fast-too'],
  )
})

test('placement: of nodes that are equally fast the weakest is taken, so that strong ones stay free', () => {
  const world = new World()
  world.node('large', { cpus: 64, memoryBytes: 256 * GIB })
  world.node('small', { cpus: 2, memoryBytes: 4 * GIB })
  world.node('kvm', {
    cpus: 2,
    memoryBytes: 4 * GIB,
    environments: [environment({ features: ['kvm'] })],
  })
  const names = ['a', 'b', 'c', 'd', 'e']
  for (const name of names) {
    teach(world, [derivation(name)], 10_000)
    submit(world, name)
  }
  assert.deepEqual(
    names.map((name) => nodeOf(world, name)),
    ['small', 'small', 'kvm', 'kvm', 'large'],
  )
})

test('placement: a slow free node is declined when a busy faster one ends the job sooner, and another job has it', () => {
  const world = new World()
  const fast = world.node('fast', { speed: 4, cpus: 1 })
  world.node('slow', { speed: 1, cpus: 1 })
  for (const name of ['running', 'first', 'next']) teach(world, [derivation(name)], 40_000)
  submit(world, 'running')
  assert.equal(nodeOf(world, 'running'), 'fast')
  // Ends after 10 s; on the fast node it would take until 20 s, on the slow one until 40 s.
  submit(world, 'first')
  assert.equal(nodeOf(world, 'first'), undefined)
  const state = stateOf(world, 'first')
  assert(state?.kind === 'held-for')
  assert.deepEqual([state.node.record.name, state.atMs - world.nowMs], ['fast', 10_000])
  // Its time there is promised, until 20 s: the next one would end at 30 s, the one after that at 40 s, as here.
  submit(world, 'next')
  assert.equal(stateOf(world, 'next')?.kind, 'held-for')
  teach(world, [derivation('third')], 39_000)
  submit(world, 'third')
  assert.equal(nodeOf(world, 'third'), 'slow')
  world.pass(9_000)
  fast.take()
  fast.build()
  assert.equal(nodeOf(world, 'first'), 'fast')
})

test('placement: a job is not held for longer than the declined node would take, whatever the busy one does', () => {
  const world = new World()
  const fast = world.node('fast', { speed: 4, cpus: 1 })
  world.node('slow', { speed: 1, cpus: 1 })
  for (const name of ['running', 'held']) teach(world, [derivation(name)], 40_000)
  submit(world, 'running')
  submit(world, 'held')
  assert.equal(nodeOf(world, 'held'), undefined)
  let heldMs = 0
  while (nodeOf(world, 'held') === undefined) {
    world.pass(1_000)
    heldMs += 1_000
    assert(heldMs <= 41_000, 'it is held for too long')
  }
  // What runs longer than ever was given up as soon as that was worth nothing any more.
  assert(heldMs < 40_000)
  assert.equal(nodeOf(world, 'held'), 'slow')
  assert.equal(fast.names.length, 1)
  assert(HOLD_MS_MAX >= 60_000)
})

test('placement: nothing is held on a guess', () => {
  const world = new World()
  world.node('fast', { speed: 4, cpus: 1 })
  world.node('slow', { speed: 1, cpus: 1 })
  submit(world, 'running')
  submit(world, 'next')
  assert.deepEqual([nodeOf(world, 'running'), nodeOf(world, 'next')], ['fast', 'slow'])
})

test('placement: a job that was held for a node that goes away starts at once on what is left', () => {
  const world = new World()
  const fast = world.node('fast', { speed: 4, cpus: 1 })
  world.node('slow', { speed: 1, cpus: 1 })
  for (const name of ['running', 'held']) teach(world, [derivation(name)], 40_000)
  submit(world, 'running')
  submit(world, 'held')
  assert.equal(nodeOf(world, 'held'), undefined)
  fast.down()
  assert.equal(nodeOf(world, 'held'), 'slow')
})

/** A job with one input of so many bytes. */
function withInput(name: string, bytes: number) {
  const made = derivation(name)
  const input = {
    ...fileEntry(`input of ${name}`),
    kind: 'file' as const,
    size: bytes,
    executable: false,
    digest: sha(`input of ${name}`),
  }
  return { ...made, inputs: { big: { kind: 'entry' as const, entry: input } } }
}

test('placement: a job starts where its large input is, and a small one makes no difference', () => {
  const world = new World()
  for (const name of ['n1', 'n2', 'n3']) world.node(name)
  for (const [name, bytes, expected] of [
    ['big', 500 * MIB, 'n3'],
    ['small', MIB, 'n1'],
  ] as const) {
    world.providers.set(sha(`input of ${name}`), [peerOf('n3')])
    world.submit(name, [withInput(name, bytes)])
    assert.equal(nodeOf(world, name), expected)
  }
})

test('placement: a busy node that has the inputs is waited for a moment, then any will do', () => {
  const world = new World()
  const holder = world.node('holder', { cpus: 1 })
  submit(world, 'running')
  world.node('other', { cpus: 1 })
  world.providers.set(sha('input of big'), [peerOf('holder')])
  teach(world, [withInput('big', 1)], 60_000)
  world.submit('big', [withInput('big', 2_000 * MIB)])
  assert.equal(stateOf(world, 'big')?.kind, 'near-inputs')
  world.pass(NEAR_MS_MAX - 100)
  assert.equal(nodeOf(world, 'big'), undefined)
  world.pass(200)
  assert.equal(nodeOf(world, 'big'), 'other')
  world.submit('again', [withInput('big', 2_000 * MIB)])
  holder.take()
  assert.equal(holder.names.length, 1)
})

test('placement: the node with the inputs gets the job when it has room in time', () => {
  const world = new World()
  const holder = world.node('holder', { cpus: 1 })
  submit(world, 'running')
  world.node('other', { cpus: 1 })
  world.providers.set(sha('input of big'), [peerOf('holder')])
  teach(world, [withInput('big', 1)], 60_000)
  world.submit('big', [withInput('big', 2_000 * MIB)])
  world.pass(500)
  holder.take()
  holder.build()
  assert.equal(nodeOf(world, 'big'), 'holder')
})

test('placement: what is known to need memory is only started where that is free, and never asks for more than there is', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 8, memoryBytes: 4 * GIB })
  for (const name of ['a', 'b', 'huge'])
    teach(world, [derivation(name)], 1_000, { memoryBytes: name === 'huge' ? 64 * GIB : 2 * GIB })
  submit(world, 'a')
  submit(world, 'b')
  assert.deepEqual([nodeOf(world, 'a'), nodeOf(world, 'b')], ['n1', undefined])
  assert((liveOf(world.step('a', 'a'))[0]?.memoryBytes ?? 0) >= 2 * GIB)
  node.take()
  node.build()
  assert.equal(nodeOf(world, 'b'), 'n1')
  node.take()
  node.build()
  submit(world, 'huge')
  assert.equal(liveOf(world.step('huge', 'huge'))[0]?.memoryBytes, 4 * GIB)
})

// ---- the indexed choice against a scan of all nodes

/** The node that a plain scan would take, by the same rules. */
function scanned(world: World, job: Job, durationMs: number | undefined): NodeEntry | undefined {
  const requirement = requirementOf(job.waiters)
  const { profiles, queues } = world.scheduler
  // As it comes to wait.
  queues.largest.see(requirement.cpusMin, 0)
  const found = [...world.scheduler.nodes.values()].flatMap((node) => {
    const seat = profiles.seatOf(node)
    if (seat === undefined || !isOpen(node) || !canStart(requirement, node)) return []
    const { kind, place } = seat
    const free = (node.capacity.cpus - node.allocated.cpus) / node.capacity.cpus
    const order = queues.largest.orderOn(kind.rooms.largestCpus)
    const share = order === 'tightest' ? Math.max(0, 1 - free) : free
    return [{ node, forMs: (durationMs ?? 10_000) / kind.speed, kind, place, share }]
  })
  const soonestMs = Math.min(...found.map(({ forMs }) => forMs))
  return found
    .filter(({ forMs }) => forMs <= soonestMs * 1.1)
    .toSorted((a, b) => {
      const byStrength = a.kind.strength - b.kind.strength
      const byShare = b.share - a.share
      return (
        (durationMs === undefined ? byShare || byStrength : byStrength || byShare) ||
        a.kind.id - b.kind.id ||
        a.place - b.place
      )
    })[0]?.node
}

const machine = fc.record({
  cpus: fc.constantFrom(1, 2, 4, 16),
  memoryGib: fc.constantFrom(2, 4, 16, 17),
  speed: fc.constantFrom(0.5, 1, 1.02, 2, 4),
  feature: fc.boolean(),
  system: fc.constantFrom('x86_64-linux', 'aarch64-linux'),
})
const work = fc.record({
  cpus: fc.constantFrom(1, 1, 2, 4),
  memoryGib: fc.constantFrom(0, 1, 4),
  feature: fc.boolean(),
  system: fc.constantFrom('x86_64-linux', 'aarch64-linux'),
  durationMs: fc.constantFrom(undefined, 1_000, 60_000),
  /** What happens before it is submitted. */
  before: fc.constantFrom('nothing', 'nothing', 'down', 'up', 'drain', 'end', 'faster'),
  which: fc.nat(20),
})

function disturb(world: World, node: WorldNode, what: string): void {
  switch (what) {
    case 'down':
      if (node.isConnected) node.down()
      break
    case 'up':
      if (!node.isConnected) node.up()
      break
    case 'drain':
      node.state = node.state === 'ready' ? 'draining' : 'ready'
      node.tell()
      break
    case 'faster':
      node.speed = (node.speed ?? 1) * 1.5
      node.tell()
      break
    case 'end': {
      if (!node.isConnected) break
      node.take()
      const [attempt] = node.attempts
      if (attempt !== undefined) node.build(attempt)
      break
    }
  }
  assertNothingLeft(world)
}

/** No first job of a class could start on a node with room, but for what is kept on purpose. */
function assertNothingLeft(world: World): void {
  const { queues, nodes, reservations } = world.scheduler
  for (const home of queues.all) {
    const first = queues.first(home)
    if (first === undefined) continue
    for (const node of nodes.values())
      assert(
        !isOpen(node) ||
          reservations.has(node) ||
          home.cut.has(node.peerId) ||
          home.avoid.has(node.peerId) ||
          !canStart(home.requirement, node),
        `${node.record.name} could start ${[...first.job.waiters][0]?.derivation.name ?? ''}`,
      )
  }
}

test('placement: the index chooses what a scan of all nodes would choose, and leaves nothing that could start', () => {
  let started = 0
  let held = 0
  fc.assert(
    fc.property(
      fc.array(machine, { minLength: 2, maxLength: 16, size: 'max' }),
      fc.array(work, { minLength: 10, maxLength: 40, size: 'max' }),
      (machines, jobs) => {
        const world = new World()
        for (const [at, { cpus, memoryGib, speed, feature, system }] of machines.entries())
          world.node(`n${at}`, {
            cpus,
            speed,
            memoryBytes: memoryGib * GIB,
            environments: [environment({ system, features: feature ? ['kvm'] : [] })],
          })
        for (const [at, { before, which, durationMs, ...needs }] of jobs.entries()) {
          const node = world.nodes[which % world.nodes.length]
          if (node !== undefined) disturb(world, node, before)
          const name = `job${at}`
          const made = derivation(name, {
            cpus: needs.cpus,
            memoryBytes: needs.memoryGib * GIB,
            features: needs.feature ? ['kvm'] : [],
            system: needs.system,
          })
          if (durationMs !== undefined) teach(world, [made], durationMs)
          world.isAnswering = false
          world.submit(name, [made])
          const job = jobOf(world, name)
          const learnt = world.scheduler.state.estimates.of(made)
          const expected = scanned(world, job, learnt.sampleCount === 0 ? undefined : durationMs)
          world.isAnswering = true
          world.answer()
          const actual = liveOf(world.step(name, name))[0]?.node.peerId
          if (actual === undefined && expected !== undefined) {
            held += 1
            assert.equal(stateOf(world, name)?.kind, 'held-for')
          } else {
            started += Number(actual !== undefined)
            assert.equal(actual, expected?.peerId, `${name} of ${JSON.stringify(jobs[at])}`)
          }
          assertNothingLeft(world)
        }
      },
    ),
    { numRuns: 60 },
  )
  // That nothing is found must not come from nothing happening.
  assert(started > 300 && held > 10, `${started} were started, ${held} held`)
})
