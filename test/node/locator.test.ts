/**
 * The owner's index with its nodes: what they announce, whom it names, whom it tells, and what it has carried
 * by way of store nodes. Questions and answers go over real links, in memory.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Announcer } from '../../src/gossip/announcer.ts'
import { singleIndex } from '../../src/gossip/directory.ts'
import { Finder } from '../../src/gossip/finder.ts'
import { PARTIAL_MS, SWARM_PEERS_MAX } from '../../src/gossip/swarm-tracker.ts'
import { openPeerLink, type PeerLink } from '../../src/node/links/peer-link.ts'
import { Locator } from '../../src/node/owner/locator.ts'
import { Announced, ANNOUNCEMENT_ITEMS_MAX } from '../../src/wire/announcement.ts'
import { encodeObject } from '../../src/wire/cbor.ts'
import { sha256, type BlobRef } from '../../src/wire/digest.ts'
import type { PeerRecord } from '../../src/wire/peer-record.ts'
import type { Entry } from '../../src/wire/tree.ts'
import { Done, Located, type Call, type Question } from '../../src/wire/work-messages.ts'
import { log, random, StepClock, turnOver } from '../store/support.ts'
import { memoryChannels } from '../support/memory-channel.ts'
import { hello, never } from './hosts.ts'

const OWNER = `12D3KooW${'A'.repeat(44)}`
const BIG: BlobRef = { digest: sha256('big'), size: 64 * 1024 * 1024 }
const PLAIN: BlobRef = { digest: sha256('plain'), size: 100_000 }
const ENTRY: Entry = { kind: 'file', ...PLAIN, executable: false }

const peerIdOf = (at: number): string =>
  `12D3KooW${String(at)
    .padStart(44, 'B')
    .replaceAll(/\d/g, (digit) => 'CDEFGHJKLM'[Number(digit)] ?? 'Z')}`

type Carry = Extract<Call, { method: 'pull' | 'push' }>

class Mesh {
  readonly clock = new StepClock()
  readonly nodes = new Map<string, { connected: boolean; record: PeerRecord }>()
  readonly told: { readonly peerId: string; readonly digests: readonly string[] }[] = []
  readonly carried: { readonly peerId: string; readonly call: Carry }[] = []
  readonly links = new Map<string, PeerLink>()
  /** What a node that is told to move blobs says. */
  carry: (peerId: string, call: Carry) => Done = () => ({ ok: true, bytes: 1000, message: '' })
  readonly locator = new Locator({
    clock: this.clock,
    random,
    log,
    recordOf: (peerId) => this.#present(peerId),
    stores: () => this.#stores(),
    self: () => this.#self,
    callDown: async (peerId, call) => {
      this.carried.push({ peerId, call })
      return this.carry(peerId, call)
    },
    tell: (peerId, digests) => {
      this.told.push({ peerId, digests })
      void this.links.get(peerId)?.call({ method: 'appeared', digests }, Done, { signal: never })
    },
  })
  readonly #self: PeerRecord = hello(OWNER, 'root').record

  #present(peerId: string): PeerRecord | undefined {
    const node = this.nodes.get(peerId)
    return node?.connected === true ? node.record : undefined
  }

  #stores(): PeerRecord[] {
    return [...this.nodes.values()].flatMap(({ connected, record }) =>
      connected && record.roles.includes('store') ? [record] : [],
    )
  }

  join(name: string, options: { readonly roles?: PeerRecord['roles'] } = {}): string {
    const peerId = peerIdOf(this.nodes.size)
    const record = { ...hello(peerId, name).record, roles: options.roles ?? ['worker'] }
    this.nodes.set(peerId, { connected: true, record })
    this.locator.attached(peerId)
    return peerId
  }

  leave(peerId: string): void {
    this.#setConnected(peerId, false)
    this.locator.detached(peerId)
  }

  comeBack(peerId: string): void {
    this.#setConnected(peerId, true)
    this.locator.attached(peerId)
  }

  #setConnected(peerId: string, connected: boolean): void {
    const node = this.nodes.get(peerId)
    assert(node !== undefined)
    node.connected = connected
  }

  /** The peers that are named, by what they are named as. */
  async locate(asker: string, refs: readonly BlobRef[], more: Partial<Question> = {}) {
    const question = { refs: [...refs], entries: [], failed: [], asksStores: true, ...more }
    const { peers, providers, swarm, stores, watching } = await this.locator.locate(
      question,
      asker,
      never,
    )
    const names = (indexes: readonly number[]): (string | undefined)[] =>
      indexes.map((at) => peers[at]?.name)
    return {
      providers: providers.map(([, indexes]) => names(indexes)),
      swarm: swarm?.map(([, indexes]) => names(indexes)),
      stores: names(stores ?? []),
      watching,
    }
  }

  /** A node's finder and announcer, with a real link to the owner. */
  async link(peerId: string): Promise<{ finder: Finder; announcer: Announcer }> {
    const { clock, locator } = this
    const [up, down] = memoryChannels({ remotePeers: [OWNER, peerId] })
    const [child, parent] = await Promise.all([
      openPeerLink(
        { channel: up, clock, log },
        {
          hello: hello(peerId, 'child'),
          signal: never,
          handlers: () => ({
            async onCall(call) {
              assert.equal(call.method, 'appeared')
              if (call.method === 'appeared') finder.appeared(call.digests)
              return encodeObject(Done, { ok: true, bytes: 0, message: '' })
            },
          }),
        },
      ),
      openPeerLink(
        { channel: down, clock, log },
        {
          hello: hello(OWNER, 'root'),
          signal: never,
          handlers: () => ({
            async onCall(call, { signal }) {
              if (call.method === 'announce')
                return encodeObject(Announced, await locator.announce(call, peerId, signal))
              assert(call.method === 'locate')
              return encodeObject(Located, await locator.locate(call, peerId, signal))
            },
          }),
        },
      ),
    ])
    this.links.set(peerId, parent)
    const directory = singleIndex(OWNER)
    const finder = new Finder({
      clock,
      log,
      directory: () => directory,
      ask: (_to, question, signal) =>
        child.call({ method: 'locate', ...question }, Located, { signal }),
      has: async (_store, digests) => digests.map(() => false),
    })
    const announcer = new Announcer({
      clock,
      random,
      log,
      send: (_to, announcement, signal) =>
        child.call({ method: 'announce', ...announcement }, Announced, { signal }),
    })
    announcer.use(directory)
    return { finder, announcer }
  }
}

test('locator: a node announces over its link, and another finds it when it is told to look', async () => {
  const mesh = new Mesh()
  const [w1, w2] = [mesh.join('w1'), mesh.join('w2')]
  const [one, two] = await Promise.all([mesh.link(w1), mesh.link(w2)])
  const find = async (): Promise<string[]> => {
    const asked = two.finder.locate([PLAIN], { signal: never })
    return (await mesh.clock.run(asked)).peers.map(({ name }) => name)
  }
  assert.deepEqual(await find(), [])
  assert.deepEqual(await find(), [])
  one.announcer.add(PLAIN.digest, PLAIN.size, 'part')
  for (let step = 0; step < 40; step++) {
    mesh.clock.step(50)
    await turnOver()
  }
  assert.deepEqual(mesh.told, [{ peerId: w2, digests: [PLAIN.digest] }])
  assert.deepEqual(await find(), ['w1'])
  assert.equal(two.finder.counts.questions, 2)
  for (const { finder, announcer } of [one, two]) {
    finder[Symbol.dispose]()
    announcer[Symbol.dispose]()
  }
})

test('locator: names those that have it and are there, but not the asker', async () => {
  const mesh = new Mesh()
  const [w1, w2, s1] = [mesh.join('w1'), mesh.join('w2'), mesh.join('s1', { roles: ['store'] })]
  for (const peer of [w1, w2]) mesh.locator.add(ENTRY, peer)
  assert.deepEqual((await mesh.locate(w1, [PLAIN])).providers, [['w2']])
  assert.deepEqual((await mesh.locate(s1, [PLAIN])).providers, [['w2', 'w1']])
  mesh.leave(w2)
  const { providers, stores } = await mesh.locate(w1, [PLAIN])
  assert.deepEqual([providers, stores], [[], ['s1']])
  assert.deepEqual(mesh.locator.providersOf(PLAIN.digest), [w2, w1])
  // An older asker does not know of stores apart.
  const older = await mesh.locate(w1, [PLAIN], { asksStores: false })
  assert.deepEqual([older.providers, older.stores], [[['s1']], []])
})

test('locator: when all nodes announce all they have at once, it is taken in little by little', async () => {
  const mesh = new Mesh()
  const added = Array.from({ length: ANNOUNCEMENT_ITEMS_MAX }, (_, at) => sha256(`${at}`))
  const [first = PLAIN.digest] = added
  const to = { digest: PLAIN.digest, count: added.length }
  const answers = ['w1', 'w2', 'w3', 'w4'].map((name) =>
    mesh.locator.announce({ from: null, added, gone: [], to }, mesh.join(name), never),
  )
  const known: number[] = []
  for (let atMs = 0; atMs <= 200; atMs += 20) {
    await turnOver()
    known.push(mesh.locator.providersOf(first).length)
    mesh.clock.step(20)
  }
  assert.deepEqual([known[0], known.at(-1)], [1, 4])
  assert(known.filter((count) => count === 2).length >= 2, `${known.join()} at a time`)
  for (const { held } of await Promise.all(answers)) assert.deepEqual(held, to)
})

test('locator: a wrong record is forgotten once somebody reports it', async () => {
  const mesh = new Mesh()
  const [w1, w2] = [mesh.join('w1'), mesh.join('w2')]
  mesh.locator.add(ENTRY, w1)
  await mesh.locate(w2, [], { absent: [[PLAIN.digest, w1]] })
  assert.deepEqual((await mesh.locate(w2, [PLAIN])).providers, [])
})

test('locator: who waits hears of a result, of an announcement, and of a node that comes back', async () => {
  const mesh = new Mesh()
  const [w1, w2, w3] = [mesh.join('w1'), mesh.join('w2'), mesh.join('w3')]
  const watch = [PLAIN.digest]
  mesh.locator.add(ENTRY, w1)
  mesh.leave(w1)
  for (const peer of [w2, w3])
    assert.deepEqual((await mesh.locate(peer, [PLAIN], { watch })).watching, watch)
  mesh.leave(w3)
  mesh.comeBack(w1)
  assert.deepEqual(mesh.told.splice(0), [{ peerId: w2, digests: watch }])
  assert.deepEqual((await mesh.locate(w2, [PLAIN], { watch })).watching, [])

  for (const peer of [w1, w2]) await mesh.locate(peer, [BIG], { watch: [BIG.digest] })
  mesh.locator.add({ kind: 'file', ...BIG, executable: false }, w1)
  assert.deepEqual(mesh.told, [{ peerId: w2, digests: [BIG.digest] }])
})

test('locator: whoever asks for a big blob is named to the others, until it has all of it or is gone', async () => {
  const mesh = new Mesh()
  const [s1, w1, w2, w3] = ['s1', 'w1', 'w2', 'w3'].map((name) => mesh.join(name))
  assert(s1 !== undefined && w1 !== undefined && w2 !== undefined && w3 !== undefined)
  // Nobody has it: those that want it are no help to each other.
  await mesh.locate(w1, [BIG])
  assert.deepEqual((await mesh.locate(w2, [BIG])).swarm, [])
  mesh.locator.add({ kind: 'file', ...BIG, executable: false }, s1)
  assert.deepEqual((await mesh.locate(w1, [BIG, PLAIN])).swarm, [])
  assert.deepEqual((await mesh.locate(w2, [BIG])).swarm, [['w1']])
  // The swarm goes on without the one that had it all.
  mesh.leave(s1)
  const third = await mesh.locate(w3, [BIG])
  assert.deepEqual([third.providers, third.swarm?.[0]?.toSorted()], [[], ['w1', 'w2']])
  const announced = { digest: BIG.digest, count: 1 }
  await mesh.locator.announce(
    { from: null, added: [BIG.digest], gone: [], to: announced },
    w1,
    never,
  )
  const later = await mesh.locate(w3, [BIG])
  assert.deepEqual([later.providers, later.swarm], [[['w1']], [['w2']]])
  mesh.leave(w2)
  assert.deepEqual((await mesh.locate(w3, [BIG])).swarm, [])
  mesh.clock.step(PARTIAL_MS)
  assert.deepEqual((await mesh.locate(w1, [BIG])).swarm, [])
})

test('locator: a crowd of askers costs one question each, and each hears of some others', async () => {
  const mesh = new Mesh()
  mesh.locator.add({ kind: 'file', ...BIG, executable: false }, mesh.join('s1'))
  for (let at = 0; at < 100; at++) {
    const { swarm = [] } = await mesh.locate(mesh.join(`w${at}`), [BIG])
    assert.equal(new Set(swarm[0] ?? []).size, Math.min(at, SWARM_PEERS_MAX))
  }
})

test('locator: blobs are carried by store nodes alone, and their bytes are counted', async () => {
  const mesh = new Mesh()
  const [w1, w2] = [mesh.join('w1'), mesh.join('w2')]
  const roots = ['worker', 'root', 'client', 'mirror'] as const
  for (const role of roots) mesh.join(`a-${role}`, { roles: [role] })
  mesh.locator.add(ENTRY, w1)
  const relay = (failed: readonly string[]): Promise<Located> =>
    mesh.locator.locate({ refs: [], entries: [ENTRY], failed: [...failed] }, w2, never)
  assert.deepEqual((await relay([w1])).peers, [])
  assert.deepEqual([mesh.carried, mesh.locator.relayedBytes], [[], 0])

  const [s1, s2] = [mesh.join('s1', { roles: ['store'] }), mesh.join('s2', { roles: ['store'] })]
  mesh.carry = (peerId) =>
    peerId === s1
      ? { ok: false, bytes: 0, message: 'no way' }
      : { ok: true, bytes: 123, message: '' }
  assert.deepEqual(
    (await relay([w1])).peers.map(({ name }) => name),
    ['s1'],
  )
  assert.deepEqual(
    mesh.carried.map(({ peerId, call }) => [peerId, call.method]),
    [
      [s1, 'pull'],
      [w1, 'push'],
    ],
  )
  assert.equal(mesh.locator.relayedBytes, 123)
  assert.deepEqual((await mesh.locate(w2, [PLAIN])).providers, [['s1', 'w1']])

  mesh.carry = () => ({ ok: true, bytes: 7, message: '' })
  assert.deepEqual(
    (await relay([w1, s1])).peers.map(({ name }) => name),
    ['s2'],
  )
  assert.equal(mesh.carried.at(-1)?.peerId, s2)
  assert.equal(mesh.locator.relayedBytes, 130)
})
