/** What a node tells its index, over time: paced, bounded, and next to nothing when nothing changed. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ANNOUNCE_BYTES_MIN, ANNOUNCE_PACE_MS, Announcer } from '../../src/gossip/announcer.ts'
import { rendezvous, singleIndex, type BlobDirectory } from '../../src/gossip/directory.ts'
import { ProviderTable } from '../../src/gossip/provider-table.ts'
import {
  ANNOUNCED_MAX,
  ANNOUNCED_MS,
  ANNOUNCEMENT_ITEMS_MAX,
  type Announcement,
} from '../../src/wire/announcement.ts'
import { isDigest, sha256, type Digest } from '../../src/wire/digest.ts'
import { log, random, StepClock, turnOver } from '../store/support.ts'

const BIG = ANNOUNCE_BYTES_MIN

/** A node and its index nodes, some of which cannot be reached. */
class World implements Disposable {
  readonly clock = new StepClock()
  readonly tables = new Map<string, ProviderTable>()
  readonly away = new Set<string>()
  readonly sent: { readonly atMs: number; readonly to: string; readonly what: Announcement }[] = []
  tries = 0
  announcer = this.#start()

  #start(): Announcer {
    return new Announcer({
      clock: this.clock,
      random,
      log,
      send: async (to, what) => {
        this.tries += 1
        if (this.away.has(to)) throw new Error('not reached')
        this.sent.push({ atMs: this.clock.nowMs(), to, what })
        return { held: this.table(to).announce('x', what, this.clock.nowMs()) }
      },
    })
  }

  restart(): void {
    this.announcer[Symbol.dispose]()
    this.announcer = this.#start()
  }

  table(indexNode: string): ProviderTable {
    const table = this.tables.get(indexNode) ?? new ProviderTable()
    this.tables.set(indexNode, table)
    return table
  }

  has(indexNode: string, digest: Digest): boolean {
    return this.table(indexNode).of(digest, this.clock.nowMs()).includes('x')
  }

  /** Lets time pass in steps; gives what was sent. */
  async pass(ms: number, stepMs = ANNOUNCE_PACE_MS): Promise<World['sent']> {
    const from = this.sent.length
    for (let left = ms; left > 0; left -= stepMs) {
      this.clock.step(Math.min(left, stepMs))
      await turnOver()
    }
    return this.sent.slice(from)
  }

  use(directory: BlobDirectory): void {
    this.announcer.use(directory)
    for (const indexNode of directory.indexNodes) this.announcer.reached(indexNode)
  }

  [Symbol.dispose](): void {
    this.announcer[Symbol.dispose]()
  }
}

function numbered(at: number): Digest {
  const hex = at.toString(16).padStart(64, '0')
  assert(isDigest(hex))
  return hex
}

test('announcer: announces roots and big blobs, not the small parts of trees', async () => {
  using world = new World()
  const [root, big, small] = [sha256('root'), sha256('big'), sha256('small')]
  world.announcer.add(root, 100, 'root')
  world.use(singleIndex('p'))
  world.announcer.add(big, BIG, 'part')
  world.announcer.add(small, BIG - 1, 'part')
  await world.pass(1_000)
  assert.deepEqual(
    [root, big, small].map((digest) => world.has('p', digest)),
    [true, true, false],
  )
  world.announcer.forget([big, small])
  await world.pass(1_000)
  assert.deepEqual(
    [root, big].map((digest) => world.has('p', digest)),
    [true, false],
  )
})

test('announcer: what comes within a moment goes in one message', async () => {
  using world = new World()
  world.use(singleIndex('p'))
  await world.pass(1_000)
  for (let at = 0; at < 1_000; at++) {
    world.announcer.add(numbered(at), BIG, 'part')
    if (at % 100 === 0) await turnOver()
  }
  const sent = await world.pass(1_000)
  assert.deepEqual(
    sent.map(({ what }) => what.added.length),
    [1_000],
  )
})

test('announcer: a million blobs and a lost connection cost one message, an index that lost them 16 paced ones', async () => {
  using world = new World()
  const count = 1_000_000
  for (let at = 0; at < count; at++) world.announcer.add(numbered(at), BIG, 'part')
  world.use(singleIndex('p'))
  const messagesMax = 1 + ANNOUNCED_MAX / ANNOUNCEMENT_ITEMS_MAX
  const first = await world.pass(60_000)
  assert.equal(first.length, messagesMax)
  const announced = world.table('p').announcedBy('x')
  assert(announced <= ANNOUNCED_MAX && announced > 0.98 * ANNOUNCED_MAX, `${announced} records`)
  assert(world.has('p', numbered(count - 1)) && world.has('p', numbered(count - announced)))
  for (const [at, { atMs, what }] of first.entries()) {
    assert(what.added.length + what.gone.length <= ANNOUNCEMENT_ITEMS_MAX)
    assert(at === 0 || atMs >= (first[at - 1]?.atMs ?? 0) + ANNOUNCE_PACE_MS, 'paced')
  }

  for (let time = 0; time < 3; time++) {
    world.announcer.reached('p')
    const [again, ...more] = await world.pass(60_000)
    assert.deepEqual([again?.what.added, more], [[], []])
  }

  world.tables.clear()
  world.announcer.reached('p')
  const anew = await world.pass(60_000)
  assert.equal(anew.length, messagesMax)
  assert.equal(world.table('p').announcedBy('x'), announced)

  // The same blobs after a restart, in whatever order they were found.
  world.restart()
  for (let at = count - 1; at >= count - announced; at--)
    world.announcer.add(numbered(at), BIG, 'part')
  world.use(singleIndex('p'))
  assert.deepEqual(
    (await world.pass(60_000)).map(({ what }) => what.added),
    [[]],
  )
})

test('announcer: beyond its bound the oldest are taken back', async () => {
  using world = new World()
  world.use(singleIndex('p'))
  for (let at = 0; at < ANNOUNCED_MAX; at++) world.announcer.add(numbered(at), BIG, 'part')
  await world.pass(20_000)
  world.announcer.add(numbered(ANNOUNCED_MAX), BIG, 'part')
  const [sent] = await world.pass(1_000)
  assert.deepEqual(sent?.what.added, [numbered(ANNOUNCED_MAX)])
  const { gone } = sent.what
  assert(gone.length >= 1 && gone.length <= ANNOUNCED_MAX / 50, `${gone.length} taken back`)
  assert.deepEqual(
    gone,
    Array.from(gone, (_, at) => numbered(at)),
  )
})

test('announcer: records live as long as the node says so, for a few messages an hour', async () => {
  using world = new World()
  const root = sha256('root')
  world.announcer.add(root, 1, 'root')
  world.use(singleIndex('p'))
  await world.pass(1_000)
  const sent = await world.pass(5 * ANNOUNCED_MS, 60_000)
  assert(world.has('p', root))
  assert(sent.length >= 5 && sent.length <= 5 * 5, `${sent.length} messages in 10 h`)
  world.announcer[Symbol.dispose]()
  await world.pass(ANNOUNCED_MS, 60_000)
  assert(!world.has('p', root))
})

test('announcer: an index node that cannot be reached is tried less and less, and at once when it is back', async () => {
  using world = new World()
  const root = sha256('root')
  world.away.add('p')
  world.announcer.add(root, 1, 'root')
  world.use(singleIndex('p'))
  await world.pass(3600_000, 1_000)
  assert(world.tries > 5 && world.tries < 100, `${world.tries} tries in an hour`)
  world.away.clear()
  world.announcer.reached('p')
  await world.pass(1_000)
  assert(world.has('p', root))
})

test('announcer: another parent is told everything, the old one nothing any more', async () => {
  using world = new World()
  const root = sha256('root')
  world.announcer.add(root, 1, 'root')
  world.use(singleIndex('p'))
  await world.pass(1_000)
  world.use(singleIndex('q'))
  world.announcer.forget([root])
  world.announcer.add(sha256('other'), 1, 'root')
  const sent = await world.pass(ANNOUNCED_MS - 2_000, 60_000)
  assert.deepEqual([...new Set(sent.map(({ to }) => to))], ['q'])
  assert(world.has('q', sha256('other')) && !world.has('q', root) && world.has('p', root))
})

test('announcer: each record is at its three index nodes, and moves when they change', async () => {
  using world = new World()
  const nodes = Array.from({ length: 10 }, (_, at) => `index-${at}`)
  const digests = Array.from({ length: 200 }, (_, at) => sha256(`${at}`))
  for (const digest of digests) world.announcer.add(digest, BIG, 'part')
  const check = (directory: BlobDirectory): void => {
    for (const digest of digests)
      assert.deepEqual(
        directory.indexNodes.filter((indexNode) => world.has(indexNode, digest)),
        directory.indexNodesOf(digest).toSorted(),
      )
  }
  const before = rendezvous(nodes.slice(0, 9))
  world.use(before)
  await world.pass(5_000)
  check(before)
  const after = rendezvous(nodes)
  world.use(after)
  const sent = await world.pass(5_000)
  check(after)
  const moved = sent.reduce((sum, { what }) => sum + what.added.length, 0)
  const expected = digests.filter((digest) => after.indexNodesOf(digest).includes('index-9')).length
  assert.equal(moved, expected)
})
