/**
 * Finding blobs in a mesh of 1,000 nodes, 200 of which keep the index by rendezvous hashing: the finder and
 * the announcer of every node as they are, tables as they are, messages counted. Everything comes from SEED.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Random } from '../../src/base/random.ts'
import { Announcer } from '../../src/gossip/announcer.ts'
import { rendezvous, REPLICAS, type BlobDirectory } from '../../src/gossip/directory.ts'
import { Finder } from '../../src/gossip/finder.ts'
import { ProviderTable } from '../../src/gossip/provider-table.ts'
import { ANNOUNCED_MS } from '../../src/wire/announcement.ts'
import { sha256, type BlobRef, type Digest } from '../../src/wire/digest.ts'
import type { PeerRecord } from '../../src/wire/peer-record.ts'
import type { Located, Question } from '../../src/wire/work-messages.ts'
import { log, never, turnOver } from '../store/support.ts'
import { Dice } from './dice.ts'
import { SimClock } from './sim-clock.ts'

const SEED = 20_241_122
const NODES = 1_000
const INDEX_NODES = 200
const BLOBS_PER_NODE = 10
const BIG = 100_000

interface Node {
  readonly name: string
  /** What it really has. */
  readonly blobs: Set<Digest>
  readonly announcer: Announcer
  readonly finder: Finder
}

class World {
  readonly dice = new Dice(SEED)
  readonly clock = new SimClock()
  readonly nodes: Node[]
  readonly tables = new Map<string, ProviderTable>()
  readonly away = new Set<string>()
  directory: BlobDirectory
  /** Messages, digests in announcements, and asks for blobs where there were none. */
  counts = { announcements: 0, announced: 0, questions: 0, wasted: 0 }

  constructor() {
    const random: Random = {
      bytes: (count) => Uint8Array.from({ length: count }, () => this.dice.between(0, 255)),
    }
    const names = Array.from({ length: NODES }, (_, at) => `node-${at}`)
    this.directory = rendezvous(names.slice(0, INDEX_NODES))
    this.nodes = names.map((name) => ({
      name,
      blobs: new Set<Digest>(),
      announcer: new Announcer({
        clock: this.clock,
        random,
        log,
        send: async (indexNode, announcement) => {
          this.counts.announcements += 1
          this.counts.announced += announcement.added.length
          if (this.away.has(indexNode)) throw new Error('away')
          return { held: this.table(indexNode).announce(name, announcement, this.clock.nowMs()) }
        },
      }),
      finder: new Finder({
        clock: this.clock,
        log,
        directory: () => this.directory,
        ask: async (indexNode, question) => {
          this.counts.questions += 1
          if (this.away.has(indexNode)) throw new Error('away')
          return this.#answer(this.table(indexNode), question)
        },
        has: async (_store, digests) => digests.map(() => false),
      }),
    }))
    for (const { announcer } of this.nodes) announcer.use(this.directory)
  }

  table(indexNode: string): ProviderTable {
    const table = this.tables.get(indexNode) ?? new ProviderTable()
    this.tables.set(indexNode, table)
    return table
  }

  #answer(table: ProviderTable, { refs, absent = [] }: Question): Located {
    for (const [digest, peerId] of absent) table.forget(peerId, digest)
    const peers: PeerRecord[] = []
    const providers = refs.flatMap(({ digest }): [Digest, number[]][] => {
      const known = table.of(digest, this.clock.nowMs())
      const indexes = known.map(
        (name) => peers.push({ peerId: name, name, roles: [], addresses: [], http: null }) - 1,
      )
      return indexes.length > 0 ? [[digest, indexes]] : []
    })
    return { peers, providers }
  }

  give(node: Node, { digest, size }: BlobRef, kind: 'root' | 'part' = 'root'): void {
    node.blobs.add(digest)
    node.announcer.add(digest, size, kind)
  }

  /** Lets time pass; everything that is due at one moment goes out together. */
  async pass(ms: number): Promise<void> {
    const untilMs = this.clock.nowMs() + ms
    while (this.clock.step(untilMs)) {
      const nowMs = this.clock.nowMs()
      while (this.clock.step(nowMs));
      await turnOver()
    }
  }

  /** Those named, in order. */
  async named(node: Node, ref: BlobRef): Promise<string[]> {
    const { peers, providers } = await node.finder.locate([ref], { signal: never })
    return providers.flatMap(([, indexes]) => indexes.map((at) => peers[at]?.name ?? '?'))
  }

  /** Looks it up and asks for it, as a fetcher does; gives who had it. */
  async fetch(node: Node, ref: BlobRef): Promise<string | undefined> {
    for (const name of await this.named(node, ref)) {
      const provider = this.nodes.find((one) => one.name === name)
      if (provider?.blobs.has(ref.digest) === true) return name
      this.counts.wasted += 1
      node.finder.absent(ref.digest, name)
    }
    return undefined
  }

  reset(): World['counts'] {
    const { counts } = this
    this.counts = { announcements: 0, announced: 0, questions: 0, wasted: 0 }
    return counts
  }
}

const at = <T>(items: readonly T[], index: number): T => {
  const item = items[index]
  assert(item !== undefined)
  return item
}

test(
  'routing: an index by rendezvous hashing over 1,000 nodes',
  { timeout: 120_000 },
  async (t) => {
    const world = new World()
    const { dice, nodes, directory } = world
    const blobs = nodes.flatMap((owner) =>
      Array.from({ length: BLOBS_PER_NODE }, (_, blob) => ({
        owner,
        ref: { digest: sha256(`${owner.name} ${blob}`), size: BIG },
      })),
    )
    for (const { owner, ref } of blobs) world.give(owner, ref)
    const placements = blobs.length * REPLICAS

    await t.test(
      'each record is at its three index nodes, for two messages per node and index',
      async () => {
        await world.pass(5_000)
        const { announcements, announced } = world.reset()
        for (const { owner, ref } of blobs) {
          const places = directory.indexNodesOf(ref.digest)
          assert.equal(places.length, REPLICAS)
          for (const place of places)
            assert.deepEqual(world.table(place).of(ref.digest, world.clock.nowMs()), [owner.name])
        }
        assert.equal(announced, placements)
        assert(announcements <= 2 * placements, `${announcements} messages`)
        const sizes = [...world.tables.values()].map(({ size }) => size)
        assert(
          Math.max(...sizes) < (1.5 * placements) / INDEX_NODES,
          `${Math.max(...sizes)} records`,
        )
      },
    )

    await t.test('a look-up is one message', async () => {
      for (let time = 0; time < 2_000; time++) {
        const { owner, ref } = dice.pick(blobs)
        assert.equal(await world.fetch(dice.pick(nodes), ref), owner.name)
      }
      assert.deepEqual(world.reset(), {
        announcements: 0,
        announced: 0,
        questions: 2_000,
        wasted: 0,
      })
    })

    await t.test('records survive the loss of any two of their three index nodes', async () => {
      for (let time = 0; time < 300; time++) {
        const { owner, ref } = dice.pick(blobs)
        const places = directory.indexNodesOf(ref.digest)
        const survivor = dice.between(0, REPLICAS - 1)
        world.away.clear()
        for (const [place, name] of places.entries()) if (place !== survivor) world.away.add(name)
        assert.equal(await world.fetch(dice.pick(nodes), ref), owner.name, `seed ${SEED}`)
        assert(world.reset().questions <= REPLICAS)
      }
      world.away.clear()
    })

    await t.test(
      'an index node that lost its memory is doubted, and told again within half an hour',
      async () => {
        const lost = at(directory.indexNodes, 0)
        world.tables.delete(lost)
        const hit = blobs.filter(({ ref }) => directory.indexNodesOf(ref.digest)[0] === lost)
        assert(hit.length > 0)
        for (const { owner, ref } of hit)
          assert.equal(await world.fetch(dice.pick(nodes), ref), owner.name)
        assert.equal(world.reset().questions, 2 * hit.length)
        await world.pass(ANNOUNCED_MS / 4 + 120_000)
        for (const { owner, ref } of hit)
          assert.equal(await world.fetch(dice.pick(nodes), ref), owner.name)
        assert.equal(world.reset().questions, hit.length)
      },
    )

    await t.test('records are leases: renewed together, and gone with their node', async () => {
      const gone = at(nodes, 500)
      gone.announcer[Symbol.dispose]()
      world.reset()
      await world.pass(ANNOUNCED_MS)
      const { announcements, announced } = world.reset()
      assert.equal(announced, 0)
      // Four renewals in a lease, and one more for those that fall on its edge.
      assert(announcements <= 5 * placements, `${announcements} messages`)
      for (const { owner, ref } of blobs.slice(4_900, 5_100))
        assert.equal(
          await world.fetch(dice.pick(nodes), ref),
          owner === gone ? undefined : owner.name,
        )
      world.reset()
    })

    await t.test('a record that is wrong costs one wasted ask, and is then forgotten', async () => {
      const stale = blobs.slice(0, 200)
      for (const { owner, ref } of stale) {
        owner.blobs.delete(ref.digest)
        assert.equal(await world.fetch(dice.pick(nodes), ref), undefined)
      }
      assert.equal(world.reset().wasted, stale.length)
      await world.pass(5_000)
      assert(world.reset().questions <= stale.length * REPLICAS)
      for (const { ref } of stale) assert.equal(await world.fetch(dice.pick(nodes), ref), undefined)
      assert.equal(world.reset().wasted, 0)
    })

    await t.test(
      'an index node that comes or goes moves its own share of the records',
      async () => {
        const use = async (names: readonly string[]): Promise<number> => {
          world.directory = rendezvous(names)
          for (const { announcer } of nodes) announcer.use(world.directory)
          await world.pass(5_000)
          return world.reset().announced
        }
        const share = placements / INDEX_NODES
        const joined = at(nodes, INDEX_NODES).name
        const movedIn = await use([...directory.indexNodes, joined])
        assert(movedIn > 0.5 * share && movedIn < 1.5 * share, `${movedIn} of ${placements} moved`)
        const movedOut = await use(directory.indexNodes)
        assert(
          movedOut > 0.5 * share && movedOut < 1.5 * share,
          `${movedOut} of ${placements} moved`,
        )
        for (let time = 0; time < 200; time++) {
          const { owner, ref } = at(blobs, dice.between(5_100, blobs.length - 1))
          assert.equal(await world.fetch(dice.pick(nodes), ref), owner.name)
        }
        assert.equal(world.reset().questions, 200)
      },
    )

    await t.test('a tree of 10,000 files costs at most 0.05 look-ups per blob', async () => {
      const owner = at(nodes, 700)
      const root = { digest: sha256('tree'), size: 10_000 }
      const files = Array.from({ length: 10_000 }, (_, file) => ({
        digest: sha256(`file ${file}`),
        size: file % 10 === 0 ? BIG : 4_096,
      }))
      world.give(owner, root)
      for (const file of files) world.give(owner, file, 'part')
      await world.pass(5_000)
      const { announcements } = world.reset()
      assert(announcements <= 2 * INDEX_NODES, `${announcements} announcements`)
      const asker = at(nodes, 300)
      const { peers, providers } = await asker.finder.locate(files, { within: root, signal: never })
      assert.equal(providers.length, files.length)
      for (const [, indexes] of providers)
        assert.deepEqual(
          indexes.map((index) => peers[index]?.name),
          [owner.name],
        )
      const { questions } = world.reset()
      assert(questions / files.length <= 0.05, `${questions} questions`)
    })

    await t.test(
      'a digest that does not exist costs a bounded number of messages, wherever it is wanted',
      async () => {
        const nothing = { digest: sha256('nothing'), size: BIG }
        for (let second = 0; second < 600; second++) {
          assert.deepEqual(await world.named(at(nodes, 1), nothing), [])
          await world.pass(1_000)
        }
        const { questions } = world.reset()
        assert(questions <= REPLICAS * 15, `${questions} questions in ten minutes`)
      },
    )

    for (const { announcer, finder } of nodes) {
      announcer[Symbol.dispose]()
      finder[Symbol.dispose]()
    }
  },
)
