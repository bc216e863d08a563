/** The sets of what nodes should keep: what is in them, and that owner and node never drift apart. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { LeaseSets, neededEntries } from '../../src/node/owner/lease-sets.ts'
import { keepBlobs } from '../../src/node/blobs/look-after-blobs.ts'
import { Leases } from '../../src/store/retention/leases.ts'
import type { Digest } from '../../src/wire/digest.ts'
import { Call, KEEP_CHANGES_MAX } from '../../src/wire/work-messages.ts'
import { decodeObject, encodeObject } from '../../src/wire/cbor.ts'
import { derivation, fileEntry, peerOf } from '../scheduler/samples.ts'
import { World } from '../scheduler/world.ts'
import { log, never, StepClock } from '../store/support.ts'

const OWNER = peerOf('owner')
const HOUR_MS = 3600_000

/** An owner's sets, and nodes that keep them. */
class Mesh {
  readonly clock = new StepClock()
  readonly world = new World()
  readonly providers = new Map<Digest, string[]>()
  readonly nodes = new Map<string, Leases>()
  calls = 0
  isReachable = true
  readonly sets: LeaseSets

  constructor() {
    this.sets = new LeaseSets({
      clock: this.clock,
      log,
      state: this.world.scheduler.state,
      providersOf: (digest) => this.providers.get(digest) ?? [],
      call: async (peerId, keep) => {
        this.calls += 1
        const leases = this.nodes.get(peerId)
        if (!this.isReachable || leases === undefined) throw new Error('not connected')
        const arrived = decodeObject(Call, encodeObject(Call, keep), 'call')
        assert(arrived.method === 'keep')
        return keepBlobs(leases, OWNER, arrived)
      },
    })
  }

  /** The node's process is started, again perhaps. */
  start(name: string): Leases {
    const leases = new Leases({ clock: this.clock, onAdded: () => undefined })
    this.nodes.set(peerOf(name), leases)
    return leases
  }

  provide(digest: Digest, ...names: readonly string[]): void {
    this.providers.set(digest, names.map(peerOf))
  }

  kept(name: string): Digest[] {
    const leases = this.nodes.get(peerOf(name))
    assert(leases !== undefined)
    return [...leases.entries()].map(({ digest }) => digest).toSorted()
  }
}

const digestOf = (text: string): Digest => {
  const entry = fileEntry(text)
  assert(entry.kind !== 'symlink')
  return entry.digest
}

test('lease-sets: inputs of running jobs come first, then of ready ones, outputs of unfinished requests, and what lacks replicas', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('done', [derivation('old', { sources: ['source of old'] })])
  world.buildAll()
  world.submit('r', [
    derivation('a', { sources: ['source of a'] }),
    derivation('b', { after: ['a'], sources: ['source of b'] }),
    derivation('c', { sources: ['source of c'], system: 'other' }),
  ])
  node.take()
  while (!node.names.includes('b')) node.build()
  const names = new Map<string, string>()
  for (const name of ['a', 'b', 'c', 'old']) names.set(digestOf(`source of ${name}`), name)
  const output = (request: string, name: string): void => {
    const entry = world.step(request, name).outputs?.['out']
    assert(entry !== undefined && entry.kind !== 'symlink')
    names.set(entry.digest, `output of ${name}`)
  }
  output('done', 'old')
  output('r', 'a')
  const order = [...neededEntries(world.scheduler.state)].map((entry) =>
    entry.kind === 'symlink' ? '' : (names.get(entry.digest) ?? 'unknown'),
  )
  assert.deepEqual(
    order.toSorted((a, b) => (a < b ? -1 : 1)),
    ['b', 'c', 'output of a', 'output of a', 'output of old'],
  )
  assert.deepEqual(order.slice(2), ['c', 'output of a', 'output of old'])
})

test('lease-sets: what a waiting job needs is kept where it is, until the job is done', async () => {
  const mesh = new Mesh()
  const digest = digestOf('s')
  mesh.start('dev')
  mesh.provide(digest, 'dev')
  const node = mesh.world.node('n1')
  node.down()
  mesh.world.submit('r', [derivation('a', { sources: ['s'] })])
  await mesh.sets.refresh(never)
  assert.deepEqual(mesh.kept('dev'), [digest])
  node.up()
  mesh.world.buildAll()
  await mesh.sets.refresh(never)
  assert.deepEqual(mesh.kept('dev'), [])
})

test('lease-sets: nothing is sent while nothing changes, but to renew, and a set outlives its two hours so', async () => {
  const mesh = new Mesh()
  mesh.start('dev')
  mesh.provide(digestOf('s'), 'dev')
  mesh.world.submit('r', [derivation('a', { sources: ['s'] })])
  for (let at = 0; at < 180; at += 1) {
    await mesh.sets.refresh(never)
    mesh.clock.step(60_000)
  }
  assert.deepEqual(mesh.kept('dev'), [digestOf('s')])
  assert(mesh.calls <= 2 + (3 * HOUR_MS) / 600_000, `${mesh.calls} calls in three hours`)
  mesh.isReachable = false
  mesh.clock.step(2 * HOUR_MS)
  assert.deepEqual(mesh.kept('dev'), [], 'an owner that is gone keeps nothing')
})

test('lease-sets: a node that was restarted gets the whole set', async () => {
  const mesh = new Mesh()
  mesh.start('dev')
  mesh.provide(digestOf('s'), 'dev')
  mesh.provide(digestOf('t'), 'dev')
  mesh.world.submit('r', [derivation('a', { sources: ['s'] })])
  await mesh.sets.refresh(never)
  mesh.start('dev')
  mesh.world.submit('r2', [derivation('b', { sources: ['t'] })])
  await mesh.sets.refresh(never)
  assert.deepEqual(mesh.kept('dev'), [digestOf('s'), digestOf('t')].toSorted())
})

test('lease-sets: a node that cannot be reached gets its set when it can', async () => {
  const mesh = new Mesh()
  mesh.start('dev')
  mesh.provide(digestOf('s'), 'dev')
  mesh.world.submit('r', [derivation('a', { sources: ['s'] })])
  mesh.isReachable = false
  await mesh.sets.refresh(never)
  assert.deepEqual(mesh.kept('dev'), [])
  mesh.isReachable = true
  await mesh.sets.refresh(never)
  assert.deepEqual(mesh.kept('dev'), [digestOf('s')])
})

test('lease-sets: a big set goes in bounded messages, and one entry to two nodes at most', async () => {
  const mesh = new Mesh()
  for (const name of ['n1', 'n2', 'n3']) mesh.start(name)
  const texts = Array.from({ length: KEEP_CHANGES_MAX + 100 }, (_, at) => `s${at}`)
  for (const text of texts) mesh.provide(digestOf(text), 'n1', 'n2', 'n3')
  mesh.world.submit(
    'r',
    Array.from({ length: 84 }, (_, at) =>
      derivation(`d${at}`, { sources: texts.slice(at * 50, at * 50 + 50) }),
    ),
  )
  await mesh.sets.refresh(never)
  assert.deepEqual(
    ['n1', 'n2', 'n3'].map((name) => mesh.kept(name).length),
    [texts.length, texts.length, 0],
  )
  assert.equal(mesh.calls, 6, 'each: a beginning and two parts')
})

test('lease-sets: whatever is lost, restarted or changed, in the end each node keeps what it should', async () => {
  const step = fc.record({
    what: fc.constantFrom('submit', 'cancel', 'restart', 'cut', 'heal', 'time', 'move'),
    at: fc.nat(5),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
      const mesh = new Mesh()
      const submitted = new Set<number>()
      const cancelled = new Set<number>()
      mesh.start('n0')
      mesh.start('n1')
      const homes = new Map<number, string>()
      for (const { what, at } of steps) {
        const name = `n${at % 2}`
        if (what === 'submit' && !submitted.has(at)) {
          submitted.add(at)
          homes.set(at, name)
          mesh.provide(digestOf(`s${at}`), name)
          mesh.world.submit(`r${at}`, [derivation(`d${at}`, { sources: [`s${at}`] })])
        }
        if (what === 'cancel' && submitted.has(at)) {
          cancelled.add(at)
          mesh.world.cancel(`r${at}`)
        }
        if (what === 'move' && submitted.has(at)) {
          homes.set(at, 'n0')
          mesh.provide(digestOf(`s${at}`), 'n0')
        }
        if (what === 'restart') mesh.start(name)
        if (what === 'cut') mesh.isReachable = false
        if (what === 'heal') mesh.isReachable = true
        if (what === 'time') mesh.clock.step(HOUR_MS)
        await mesh.sets.refresh(never)
      }
      mesh.isReachable = true
      mesh.clock.step(HOUR_MS)
      // The first finds out what does not hold any more, the second puts it right.
      await mesh.sets.refresh(never)
      await mesh.sets.refresh(never)
      for (const name of ['n0', 'n1']) {
        const expected = [...submitted]
          .filter((at) => !cancelled.has(at) && homes.get(at) === name)
          .map((at) => digestOf(`s${at}`))
        assert.deepEqual(mesh.kept(name), expected.toSorted())
      }
    }),
    { numRuns: 60 },
  )
})
