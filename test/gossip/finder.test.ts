/** Looking blobs up: how many messages it takes, what is remembered, and what a digest that nobody has costs. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { rendezvous, singleIndex, type BlobDirectory } from '../../src/gossip/directory.ts'
import { Finder } from '../../src/gossip/finder.ts'
import { sha256, type BlobRef, type Digest } from '../../src/wire/digest.ts'
import type { PeerRecord } from '../../src/wire/peer-record.ts'
import type { Located, Question } from '../../src/wire/work-messages.ts'
import { log, never, StepClock, turnOver } from '../store/support.ts'

const BIG = 100_000
const ref = (name: string, size = BIG): BlobRef => ({ digest: sha256(name), size })
const peer = (name: string): PeerRecord => ({
  peerId: name,
  name,
  roles: ['store'],
  addresses: [],
  http: null,
})

/** An index that knows what it is told, and stores with what they have. */
class World implements Disposable {
  readonly clock = new StepClock()
  readonly providers = new Map<Digest, string[]>()
  readonly stores = new Map<string, Set<Digest>>()
  /** Stores and index nodes that never answer. */
  readonly silent = new Set<string>()
  readonly questions: { readonly to: string; readonly question: Question }[] = []
  readonly haves: { readonly store: string; readonly count: number }[] = []
  readonly watched = new Set<Digest>()
  /** An index node of an older version names stores as providers of what it does not know. */
  isOld = false
  directory: BlobDirectory = singleIndex('parent')
  readonly finder = new Finder({
    clock: this.clock,
    log,
    directory: () => this.directory,
    ask: async (to, question, signal) => {
      this.questions.push({ to, question })
      if (this.silent.has(to)) await hang(signal)
      return this.#answer(question)
    },
    has: async (store, digests, signal) => {
      this.haves.push({ store: store.peerId, count: digests.length })
      if (this.silent.has(store.peerId)) await hang(signal)
      return digests.map((digest) => this.stores.get(store.peerId)?.has(digest) === true)
    },
  })

  #answer({ refs, asksStores, watch = [] }: Question): Located {
    const names = [...new Set([...this.stores.keys(), ...[...this.providers.values()].flat()])]
    const at = (some: readonly string[]): number[] => some.map((name) => names.indexOf(name))
    const stores = at([...this.stores.keys()])
    const apart = asksStores === true && !this.isOld
    const providers = refs.flatMap(({ digest }): [Digest, number[]][] => {
      const known = at(this.providers.get(digest) ?? [])
      const named = known.length > 0 || apart ? known : stores
      return named.length > 0 ? [[digest, named]] : []
    })
    const watching = watch.filter((digest) => !this.providers.has(digest))
    for (const digest of watching) this.watched.add(digest)
    return { peers: names.map(peer), providers, ...(apart ? { stores, watching } : {}) }
  }

  /** Who is named for each. */
  async locate(refs: readonly BlobRef[], within?: BlobRef): Promise<string[][]> {
    const asked = this.finder.locate(refs, { within, signal: never })
    const { peers, providers } = await this.clock.run(asked)
    const named = new Map(providers)
    return refs.map(({ digest }) => (named.get(digest) ?? []).map((at) => peers[at]?.name ?? '?'))
  }

  [Symbol.dispose](): void {
    this.finder[Symbol.dispose]()
  }
}

async function hang(signal: AbortSignal): Promise<never> {
  return await new Promise((_, reject) =>
    signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
  )
}

test('finder: what is wanted in one moment goes in one question, each digest once', async () => {
  using world = new World()
  const [a, b] = [ref('a'), ref('b')]
  world.providers.set(a.digest, ['x', 'y']).set(b.digest, ['y'])
  const all = await Promise.all([world.locate([a]), world.locate([a, b]), world.locate([b])])
  assert.deepEqual(all, [[['x', 'y']], [['x', 'y'], ['y']], [['y']]])
  assert.equal(world.questions.length, 1)
  assert.deepEqual(world.questions[0]?.question.refs, [a, b])
  assert.deepEqual(world.finder.counts, { questions: 1, haves: 0, digests: 2 })
})

test('finder: one that gives up waiting does not end the search of the others', async () => {
  using world = new World()
  world.providers.set(ref('a').digest, ['x'])
  const controller = new AbortController()
  const one = world.finder.locate([ref('a')], { signal: controller.signal })
  const other = world.locate([ref('a')])
  controller.abort(new Error('enough'))
  await assert.rejects(one, /enough/)
  assert.deepEqual(await other, [['x']])
  assert.equal(world.questions.length, 1)
})

test('finder: a tree of 10,000 small files costs one question', async () => {
  using world = new World()
  const root = ref('root', 5_000)
  const files = Array.from({ length: 10_000 }, (_, at) => ref(`f${at}`, 4_096))
  world.providers.set(root.digest, ['w1'])
  world.stores.set('s1', new Set())
  for (const named of await world.locate(files, root)) assert.deepEqual(named, ['w1', 's1'])
  const { questions, haves } = world.finder.counts
  assert.deepEqual([questions, haves], [1, 0])
})

test('finder: parts of a tree that nobody is known to have are asked of stores, in batches', async () => {
  using world = new World()
  const files = Array.from({ length: 10_000 }, (_, at) => ref(`f${at}`, 4_096))
  for (let at = 0; at < 12; at++) world.stores.set(`s${at}`, new Set())
  const lacking = files.at(-1)
  for (const file of files) if (file !== lacking) world.stores.get('s3')?.add(file.digest)
  const found = await world.locate(files, ref('root', 5_000))
  const unasked = ['s8', 's9', 's10', 's11']
  for (const named of found.slice(0, -1)) assert.deepEqual(named, ['s3', ...unasked])
  assert.deepEqual(found.at(-1), unasked)
  const { questions, haves } = world.finder.counts
  assert(questions <= 11, `${questions} questions`)
  assert(haves <= 8 * 3 + 8, `${haves} haves`)
  assert(world.haves.every(({ count }) => count <= 4_096))
  assert((questions + haves) / files.length <= 0.05)
})

test('finder: big parts of a tree are asked for, and are where the tree is when nobody has them', async () => {
  using world = new World()
  const [root, known, unknown] = [ref('root', 10), ref('known'), ref('unknown')]
  world.providers.set(root.digest, ['w1']).set(known.digest, ['w2'])
  assert.deepEqual(await world.locate([known, unknown, ref('small', 5)], root), [
    ['w2'],
    ['w1'],
    ['w1'],
  ])
  assert.equal(world.questions.length, 1)
})

test('finder: a store that does not answer is named last, and left alone for a while', async () => {
  using world = new World()
  world.stores.set('dead', new Set()).set('s', new Set([ref('a').digest]))
  world.silent.add('dead')
  assert.deepEqual(await world.locate([ref('a')]), [['s', 'dead']])
  assert.deepEqual(await world.locate([ref('b')]), [['dead']])
  assert.deepEqual(
    world.haves.map(({ store }) => store),
    ['dead', 's', 's'],
  )
  world.clock.step(30_000)
  await world.locate([ref('c')])
  assert.equal(world.haves.filter(({ store }) => store === 'dead').length, 2)
})

test('finder: an index that does not answer is no proof that nobody has it', async () => {
  using world = new World()
  world.providers.set(ref('a').digest, ['x'])
  world.silent.add('parent')
  assert.deepEqual(await world.locate([ref('a')]), [[]])
  world.silent.clear()
  assert.deepEqual(await world.locate([ref('a')]), [['x']])
})

test('finder: an index of an older version is understood', async () => {
  using world = new World()
  world.isOld = true
  world.stores.set('s', new Set())
  assert.deepEqual(await world.locate([ref('a')]), [['s']])
  assert.equal(world.haves.length, 0)
})

/** Asks every second of an hour, and gives the messages that it took. */
async function hourOf(world: World, wanted: BlobRef): Promise<number> {
  for (let second = 0; second < 3600; second++) {
    const asked = world.finder.locate([wanted], { signal: never })
    for (let turn = 0; turn < 2; turn++) await turnOver()
    assert.deepEqual((await asked).providers, [])
    world.clock.step(1_000)
  }
  return world.questions.length
}

test('finder: a digest that does not exist costs a handful of messages in an hour of asking', async () => {
  using world = new World()
  world.stores.set('s', new Set())
  const questions = await hourOf(world, ref('nothing'))
  assert(questions > 1 && questions <= 10, `${questions} questions`)
  assert(world.haves.length <= questions)
})

test('finder: what is never announced, a small part of a tree, is asked for once a minute at most', async () => {
  using world = new World()
  const questions = await hourOf(world, ref('nothing', 10))
  assert(questions > 50 && questions <= 65, `${questions} questions`)
})

test('finder: what nobody had is found at once when the index says that it appeared', async () => {
  using world = new World()
  const wanted = ref('a')
  for (let time = 0; time < 5; time++) {
    assert.deepEqual(await world.locate([wanted]), [[]])
    world.clock.step(3_000)
  }
  assert.equal(world.questions.length, 2)
  assert(world.watched.has(wanted.digest))
  world.providers.set(wanted.digest, ['x'])
  assert.deepEqual(await world.locate([wanted]), [[]])
  world.finder.appeared(world.watched)
  assert.deepEqual(await world.locate([wanted]), [['x']])
})

test('finder: what was found begins anew when it is lost', async () => {
  using world = new World()
  const wanted = ref('a')
  for (let time = 0; time < 3; time++) {
    world.providers.clear()
    assert.deepEqual(await world.locate([wanted]), [[]])
    world.providers.set(wanted.digest, ['x'])
    world.clock.step(5_000)
    assert.deepEqual(await world.locate([wanted]), [['x']])
  }
})

test('finder: the word that it appeared may overtake the search', async () => {
  using world = new World()
  const wanted = ref('a')
  world.stores.set('slow', new Set())
  world.silent.add('slow')
  const asked = world.locate([wanted])
  for (let turn = 0; turn < 3; turn++) await turnOver()
  assert(world.watched.has(wanted.digest))
  world.providers.set(wanted.digest, ['x'])
  world.finder.appeared([wanted.digest])
  assert.deepEqual(await asked, [['slow']])
  assert.deepEqual(await world.locate([wanted]), [['x']])
})

test('finder: a new connection to the index is worth a new question', async () => {
  using world = new World()
  assert.deepEqual(await world.locate([ref('a')]), [[]])
  world.providers.set(ref('a').digest, ['x'])
  world.finder.forgetNobody()
  assert.deepEqual(await world.locate([ref('a')]), [['x']])
})

test('finder: big searches watch only what was asked for before', async () => {
  using world = new World()
  const many = Array.from({ length: 100 }, (_, at) => ref(`m${at}`))
  await world.locate(many)
  assert.equal(world.watched.size, 0)
  world.clock.step(5_000)
  await world.locate([...many, ref('new')])
  assert.equal(world.watched.size, 100)
})

test('finder: those that keep a wrong record hear of it, in one message', async () => {
  using world = new World()
  for (let at = 0; at < 3_000; at++) world.finder.absent(sha256(`${at}`), 'x')
  assert.equal(world.questions.length, 0)
  world.clock.step(2_000)
  await turnOver()
  assert.equal(world.questions.length, 1)
  const { absent = [] } = world.questions[0]?.question ?? {}
  assert.deepEqual([absent.length, absent.at(-1)], [1_024, [sha256('2999'), 'x']])
})

test('finder: the next index node of a digest is asked when one does not answer or does not know', async () => {
  using world = new World()
  world.directory = rendezvous(['i1', 'i2', 'i3', 'i4', 'i5'])
  const wanted = ref('a')
  const [first = '', second = '', third = ''] = world.directory.indexNodesOf(wanted.digest)
  world.providers.set(wanted.digest, ['x'])
  world.silent.add(first).add(second)
  assert.deepEqual(await world.locate([wanted]), [['x']])
  assert.deepEqual(
    world.questions.map(({ to }) => to),
    [first, second, third],
  )
})
