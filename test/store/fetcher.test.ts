/** Fetching from sources that lie, die, stall and dawdle: what ends up in the store is right, or the error says why. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock, type Clock } from '../../src/base/clock.ts'
import { hashingSink, ingest } from '../../src/files/ingest.ts'
import { SourceError, type BlobSource } from '../../src/store/blob-source.ts'
import type { BlobStore } from '../../src/store/blob-store.ts'
import { openCasLink } from '../../src/store/cas-link.ts'
import { openFetcher, type Fetcher, type Locate } from '../../src/store/fetcher.ts'
import { openMemoryBlobStore } from '../../src/store/memory-blob-store.ts'
import { cidOf, sha256, type BlobRef, type Digest } from '../../src/wire/digest.ts'
import { encodeTree, type Entry, type TreeEntry } from '../../src/wire/tree.ts'
import { bytesOf, refOf, text } from '../contract/blob-store.ts'
import { log, memoryChannels, never, random, StepClock, temporaryDirectory } from './support.ts'
import { join } from 'node:path'
import { mkdirSync, writeFileSync } from 'node:fs'

/** A source out of a function; counts what it was asked. */
class FakeSource implements BlobSource {
  readonly name: string
  readonly kind: 'peer' | 'mirror'
  readonly asked: { digest: Digest; offsetBytes: number }[] = []
  readonly fetchMany?: NonNullable<BlobSource['fetchMany']>
  batches = 0
  readonly #give: (
    ref: BlobRef,
    offsetBytes: number,
    signal: AbortSignal,
  ) => AsyncIterable<Uint8Array> | undefined

  constructor(
    name: string,
    give: (
      ref: BlobRef,
      offsetBytes: number,
      signal: AbortSignal,
    ) => AsyncIterable<Uint8Array> | undefined,
    options: {
      readonly kind?: 'peer' | 'mirror'
      readonly many?: NonNullable<BlobSource['fetchMany']>
    } = {},
  ) {
    this.name = name
    this.kind = options.kind ?? 'peer'
    this.#give = give
    const { many } = options
    if (many !== undefined)
      this.fetchMany = (refs, signal) => {
        this.batches++
        return many(refs, signal)
      }
  }

  async fetch(
    ref: BlobRef,
    { offsetBytes, signal }: { readonly offsetBytes: number; readonly signal: AbortSignal },
  ): Promise<AsyncIterable<Uint8Array> | undefined> {
    this.asked.push({ digest: ref.digest, offsetBytes })
    return this.#give(ref, offsetBytes, signal)
  }
}

async function* pieces(
  bytes: Uint8Array,
  from = 0,
  to = bytes.byteLength,
): AsyncGenerator<Uint8Array> {
  for (let at = from; at < to; at += 10_000) yield bytes.subarray(at, Math.min(at + 10_000, to))
}
async function* silence(signal: AbortSignal): AsyncGenerator<Uint8Array> {
  await new Promise((_, reject) =>
    signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
  )
  yield new Uint8Array()
}

const BYTES = bytesOf(300_000)
const REF = refOf(BYTES)
const NONE = { local: 0, peer: 0, mirror: 0 }
const good = (name: string, kind: 'peer' | 'mirror' = 'peer') =>
  new FakeSource(name, (_, offsetBytes) => pieces(BYTES, offsetBytes), { kind })
const without = (name: string) => new FakeSource(name, () => undefined)
/** Right length; wrong from byte `from` on. */
const lying = (name: string, from = 0) =>
  new FakeSource(name, (_, offsetBytes) => {
    const wrong = Buffer.from(BYTES)
    wrong[from] = (wrong[from] ?? 0) ^ 0xff
    return pieces(wrong, offsetBytes)
  })
const dying = (name: string, at: number) =>
  new FakeSource(name, (_, offsetBytes) =>
    (async function* () {
      yield* pieces(BYTES, offsetBytes, Math.max(at, offsetBytes))
      throw new SourceError('failed', `cable cut at ${at}`)
    })(),
  )
const dead = (name: string, kind: 'peer' | 'mirror' = 'peer') =>
  new FakeSource(name, (_, __, signal) => silence(signal), { kind })

function setUp(options: { mirrors?: readonly BlobSource[]; locate?: Locate; clock?: Clock } = {}): {
  store: BlobStore
  fetcher: Fetcher
} {
  const store = openMemoryBlobStore()
  const { mirrors = [], locate, clock = systemClock() } = options
  const deps = { store, clock, log, random, ...(locate === undefined ? {} : { locate }) }
  return { store, fetcher: openFetcher(deps, { mirrors }) }
}

test('fetcher: asks its own store, then hints, then who is located, then mirrors', async () => {
  const mirror = good('mirror', 'mirror')
  let located = 0
  const { store, fetcher } = setUp({
    mirrors: [mirror],
    locate: async (refs) => {
      located++
      return new Map(refs.map(({ digest }) => [digest, [without('located')]]))
    },
  })
  const hint = without('hint')
  assert.deepEqual(await fetcher.fetch(REF, { hints: [hint], signal: never }), {
    ...NONE,
    mirror: 300_000,
  })
  assert.deepEqual([hint.asked.length, located, mirror.asked.length], [1, 1, 1])
  assert.deepEqual(await fetcher.fetch(REF, { hints: [hint], signal: never }), {
    ...NONE,
    local: 300_000,
  })
  assert.deepEqual(fetcher.totals, { peer: 0, mirror: 300_000 })
  await store.delete(REF.digest)
  const peer = good('peer')
  assert.deepEqual(await fetcher.fetch(REF, { hints: [peer], signal: never }), {
    ...NONE,
    peer: 300_000,
  })
  assert.deepEqual([located, mirror.asked.length], [1, 1])
})

test('fetcher: says what each source said when none has it', async () => {
  const { fetcher } = setUp({
    mirrors: [
      new FakeSource(
        'http://mirror',
        () => {
          throw new SourceError('failed', 'answered 500')
        },
        { kind: 'mirror' },
      ),
    ],
  })
  await assert.rejects(
    fetcher.fetch(REF, { hints: [without('peer-a'), lying('peer-b')], signal: never }),
    (error: Error) => {
      assert('code' in error && error.code === 'MESH0501')
      assert.match(error.message, new RegExp(cidOf(REF.digest)))
      assert.match(error.message, /peer-a: does not have it/)
      assert.match(error.message, /peer-b: sent wrong bytes/)
      assert.match(error.message, /http:\/\/mirror: answered 500/)
      return true
    },
  )
  await assert.rejects(setUp().fetcher.fetch(REF, { signal: never }), {
    message: /no source is known/,
  })
})

test('fetcher: wrong bytes of the right length are kept nowhere, their source is banned', async () => {
  for (const from of [0, 299_000]) {
    const clock = new StepClock()
    const { store, fetcher } = setUp({ clock })
    const liar = lying('liar', from)
    const honest = good('honest')
    assert.deepEqual(await fetcher.fetch(REF, { hints: [liar, honest], signal: never }), {
      ...NONE,
      peer: 300_000,
    })
    assert.deepEqual(store.stats(), { count: 1, bytes: 300_000 })
    for (const [minutes, asked] of [
      [0, 1],
      [9, 1],
      [2, 2],
      [19, 2],
      [2, 3],
    ] as const) {
      clock.step(minutes * 60_000)
      await store.delete(REF.digest)
      await fetcher.fetch(REF, { hints: [liar, honest], signal: never })
      assert.equal(liar.asked.length, asked)
    }
  }
})

test('fetcher: a source that dies midway is continued by the next at the same byte', async () => {
  const { store, fetcher } = setUp()
  const second = good('second')
  await fetcher.fetch(REF, { hints: [dying('first', 120_000), second], signal: never })
  assert.deepEqual(second.asked, [{ digest: REF.digest, offsetBytes: 120_000 }])
  assert.deepEqual(await store.read(REF.digest, 300_000), new Uint8Array(BYTES))
  assert.equal(fetcher.totals.peer, 300_000)
})

test('fetcher: a lone source that breaks off is asked for the rest', async () => {
  const { fetcher } = setUp()
  let limit = 0
  const flaky = new FakeSource('flaky', (_, offsetBytes) => {
    limit += 100_000
    const to = limit
    return (async function* () {
      yield* pieces(BYTES, offsetBytes, Math.min(to, 300_000))
      if (to < 300_000) throw new SourceError('failed', 'reset')
    })()
  })
  await fetcher.fetch(REF, { hints: [flaky], signal: never })
  assert.deepEqual(
    flaky.asked.map(({ offsetBytes }) => offsetBytes),
    [0, 100_000, 200_000],
  )
})

test('fetcher: of two that gave one blob together, the one that lied is found', async () => {
  const { store, fetcher } = setUp()
  const honest = good('honest')
  // The honest one dies first and the liar continues: only from the whole can be seen who it was.
  const mixed = new FakeSource('breaks once', (_, offsetBytes) =>
    mixed.asked.length === 1 ? dyingPieces(offsetBytes) : pieces(BYTES, offsetBytes),
  )
  const dyingPieces = async function* (offsetBytes: number): AsyncGenerator<Uint8Array> {
    yield* pieces(BYTES, offsetBytes, 100_000)
    throw new SourceError('failed', 'reset')
  }
  const liar = lying('liar', 200_000)
  await fetcher.fetch(REF, { hints: [mixed, liar, honest], signal: never })
  assert.deepEqual(await store.read(REF.digest, 300_000), new Uint8Array(BYTES))
  assert.equal(store.stats().count, 1)
})

test('fetcher: a silent source gets company after a quarter of a second', async () => {
  const clock = new StepClock()
  const { fetcher } = setUp({ clock, mirrors: [good('mirror', 'mirror')] })
  const silent = dead('dead')
  await clock.run(fetcher.fetch(REF, { hints: [silent], signal: never }))
  assert(clock.nowMs() >= 250 && clock.nowMs() <= 350, `${clock.nowMs()} ms`)
  // Next time it is the last to be asked.
  const other = refOf(text('other'))
  const mirror = new FakeSource('other mirror', () => pieces(text('other')), { kind: 'mirror' })
  await fetcher.fetch(other, { hints: [silent, mirror], signal: never })
  assert.equal(silent.asked.length, 1)
})

test('fetcher: a slow source is left when another is there, and kept when none is', async () => {
  const clock = new StepClock()
  const crawling = () =>
    new FakeSource('slow', (_, offsetBytes) =>
      (async function* () {
        for await (const piece of pieces(BYTES, offsetBytes)) {
          await new Promise<void>((resolve) => void clock.setTimer(1000, resolve))
          yield piece
        }
      })(),
    )
  const fast = good('fast')
  const both = setUp({ clock })
  // Its first piece comes late too: with another one the hedge alone would do.
  const slow = crawling()
  await clock.run(both.fetcher.fetch(REF, { hints: [slow], signal: never }), 250)
  assert(slow.asked.length >= 1)
  const late = setUp({ clock })
  const atOnce = new FakeSource('slow after the first', (_, offsetBytes) =>
    (async function* () {
      yield BYTES.subarray(offsetBytes, offsetBytes + 10_000)
      yield* (
        (await crawling().fetch(REF, { offsetBytes: offsetBytes + 10_000, signal: never })) ?? []
      )
    })(),
  )
  const startedAtMs = clock.nowMs()
  await clock.run(late.fetcher.fetch(REF, { hints: [atOnce, fast], signal: never }), 250)
  assert(clock.nowMs() - startedAtMs < 5000, `${clock.nowMs() - startedAtMs} ms`)
  assert.equal(fast.asked.length, 1)
  assert((fast.asked[0]?.offsetBytes ?? 0) > 0)
})

test('fetcher: eight who want one blob ask once', async () => {
  const { fetcher } = setUp()
  const origin = good('origin')
  const results = await Promise.all(
    Array.from({ length: 8 }, () => fetcher.fetch(REF, { hints: [origin], signal: never })),
  )
  assert.equal(origin.asked.length, 1)
  assert.equal(results.filter(({ peer }) => peer > 0).length, 1)
})

test('fetcher: who waits for another tries with its own sources when that one fails', async () => {
  const { fetcher } = setUp()
  const starter = new AbortController()
  const first = fetcher.fetch(REF, { hints: [dead('dead')], signal: starter.signal })
  const second = fetcher.fetch(REF, { hints: [good('good')], signal: never })
  const impatient = new AbortController()
  const third = fetcher.fetch(REF, { signal: impatient.signal })
  impatient.abort(new Error('not waiting'))
  await assert.rejects(third, /not waiting/)
  starter.abort(new Error('changed my mind'))
  await assert.rejects(first, /changed my mind/)
  assert((await second).peer > 0)
})

test('fetcher: never more than eight at a time', async () => {
  const { fetcher } = setUp()
  let running = 0
  let most = 0
  const contents = Array.from({ length: 50 }, (_, at) => bytesOf(300_000, at))
  const byDigest = new Map(contents.map((bytes) => [refOf(bytes).digest, bytes]))
  const source = new FakeSource('one', (ref) =>
    (async function* () {
      most = Math.max(most, ++running)
      yield* pieces(byDigest.get(ref.digest) ?? assert.fail())
      running--
    })(),
  )
  const sum = await fetcher.fetchAll(contents.map(refOf), { hints: [source], signal: never })
  assert.deepEqual(sum, { local: 0, peer: 15_000_000, mirror: 0 })
  assert.equal(most, 8)
})

test('fetcher: small blobs travel in batches, absent and wrong ones are looked for elsewhere', async () => {
  const mirror = new FakeSource(
    'mirror',
    (ref) => pieces(contents.get(ref.digest) ?? assert.fail()),
    { kind: 'mirror' },
  )
  const { store, fetcher } = setUp({ mirrors: [mirror] })
  const contents = new Map(
    Array.from({ length: 3000 }, (_, at) => text(`small ${at}`)).map((bytes) => [
      sha256(bytes),
      bytes,
    ]),
  )
  const refs = [...contents.values()].map(refOf)
  const first = refs[0] ?? assert.fail()
  await store.put(contents.get(first.digest) ?? assert.fail())
  const peer = new FakeSource('peer', () => undefined, {
    async *many(wanted) {
      for (const [at, ref] of wanted.entries())
        if (at % 100 !== 99) yield { ref, bytes: contents.get(ref.digest) ?? assert.fail() }
    },
  })
  const sum = await fetcher.fetchAll([...refs, ...refs], { hints: [peer], signal: never })
  assert.deepEqual(await store.missing(refs), [])
  assert.equal(peer.batches, 3)
  assert.equal(peer.asked.length, 0, 'it was not asked again for what it did not give')
  assert.equal(mirror.asked.length, 10 + 10 + 9)
  assert.equal(sum.local, first.size)
  assert.equal(
    sum.local + sum.peer + sum.mirror,
    refs.reduce((total, { size }) => total + size, 0),
  )

  const other = setUp({ mirrors: [mirror] })
  const liar = new FakeSource('liar', () => undefined, {
    async *many(wanted) {
      for (const ref of wanted) yield { ref, bytes: new Uint8Array(ref.size) }
    },
  })
  await other.fetcher.fetchAll(refs, { hints: [liar], signal: never })
  assert.deepEqual(await other.store.missing(refs), [])
  assert(liar.batches <= 3)
  assert.equal(liar.asked.length, 0)
})

test('fetcher: two who want the same batch get it once', async () => {
  const { fetcher } = setUp()
  const contents = new Map(
    Array.from({ length: 500 }, (_, at) => text(`shared ${at}`)).map((bytes) => [
      sha256(bytes),
      bytes,
    ]),
  )
  const refs = [...contents.values()].map(refOf)
  const peer = new FakeSource('peer', () => undefined, {
    async *many(wanted) {
      for (const ref of wanted) yield { ref, bytes: contents.get(ref.digest) ?? assert.fail() }
    },
  })
  await Promise.all([1, 2, 3].map(() => fetcher.fetchAll(refs, { hints: [peer], signal: never })))
  assert.equal(
    fetcher.totals.peer,
    refs.reduce((total, { size }) => total + size, 0),
  )
})

test('fetcher: abort leaves at once and frees everything', async () => {
  const { fetcher } = setUp()
  for (let round = 0; round < 20; round++) {
    const controller = new AbortController()
    const fetching = fetcher.fetch(REF, { hints: [dead('dead')], signal: controller.signal })
    controller.abort(new Error(`left ${round}`))
    await assert.rejects(fetching, new RegExp(`left ${round}`))
  }
  assert((await fetcher.fetch(REF, { hints: [good('good')], signal: never })).peer > 0)
})

test('fetcher: a full disk is told as such, and no source is blamed', async () => {
  const store = openMemoryBlobStore({ bytesMax: 100_000 })
  const fetcher = openFetcher({ store, clock: systemClock(), log, random })
  const source = good('good')
  await assert.rejects(fetcher.fetch(REF, { hints: [source], signal: never }), { code: 'MESH0503' })
  assert.equal(source.asked.length, 1)
})

test('fetcher: a reference with a wrong size blames nobody', async () => {
  const { store, fetcher } = setUp()
  await store.put(BYTES)
  await assert.rejects(fetcher.fetch({ ...REF, size: 5 }, { signal: never }), {
    code: 'MESH0501',
    message: /has 300000 bytes, not 5/,
  })
})

/** Both ends of a link in memory, and a store behind the far one. */
function remote(store: BlobStore): { source: BlobSource; frames: () => number; kill: () => void } {
  const [near, far] = memoryChannels()
  const link = openCasLink({ channel: near, clock: systemClock(), log }, {})
  openCasLink({ channel: far, clock: systemClock(), log }, { store })
  return { source: link.source, frames: () => near.sent.frames, kill: () => far.close() }
}

async function ingestInto(store: BlobStore, path: string): Promise<Entry> {
  return ingest(
    hashingSink(async ({ ref, open }) => void (await store.put(open(), ref))),
    path,
  )
}

test('fetcher: a tree of ten thousand files takes few messages, and a second time only what is missing', async () => {
  using directory = temporaryDirectory()
  for (let dir = 0; dir < 100; dir++) {
    mkdirSync(join(directory.path, `d${dir}`))
    for (let file = 0; file < 100; file++)
      writeFileSync(join(directory.path, `d${dir}/f${file}`), `${dir} ${file}`)
  }
  const origin = openMemoryBlobStore()
  const entry = await ingestInto(origin, directory.path)
  const { source, frames } = remote(origin)
  const { store, fetcher } = setUp()
  const sum = await fetcher.fetchTree(entry, { hints: [source], signal: never })
  assert.deepEqual(store.stats(), origin.stats())
  assert.deepEqual(sum, { local: 0, peer: origin.stats().bytes, mirror: 0 })
  assert(frames() < 40, `${frames()} frames`)
  const before = frames()
  await store.delete(sha256('7 7'))
  assert.equal((await fetcher.fetchTree(entry, { hints: [source], signal: never })).peer, 3)
  assert(frames() - before <= 3)
})

test('fetcher: a peer that is killed in the middle of a tree is replaced', async () => {
  using directory = temporaryDirectory()
  for (let file = 0; file < 3000; file++)
    writeFileSync(join(directory.path, `f${file}`), bytesOf(2000, file))
  writeFileSync(join(directory.path, 'big'), BYTES)
  const origin = openMemoryBlobStore()
  const entry = await ingestInto(origin, directory.path)
  const first = remote(origin)
  const second = remote(origin)
  const { store, fetcher } = setUp()
  const fetching = fetcher.fetchTree(entry, { hints: [first.source, second.source], signal: never })
  while (store.stats().count < 500) await new Promise(setImmediate)
  first.kill()
  await fetching
  assert.deepEqual(store.stats(), origin.stats())
})

test('fetcher: a tree that is none is refused', async () => {
  const { store, fetcher } = setUp()
  const bytes = text('no tree')
  await store.put(bytes)
  await assert.rejects(fetcher.fetchTree({ kind: 'dir', ...refOf(bytes) }, { signal: never }), {
    code: 'MESH0210',
  })
  await assert.rejects(
    fetcher.fetchTree({ kind: 'dir', digest: sha256('x'), size: 2 ** 40 }, { signal: never }),
    (error: Error) => 'code' in error && (error.code === 'MESH0210' || error.code === 'MESH0501'),
  )
  // Deeper than any tree may be.
  let child: TreeEntry[] = []
  for (let depth = 0; depth < 130; depth++) {
    const ref = await store.put(encodeTree(child))
    child = [{ name: 'd', entry: { kind: 'dir', ...ref } }]
  }
  await assert.rejects(fetcher.fetchTree(child[0]?.entry ?? assert.fail(), { signal: never }), {
    code: 'MESH0210',
  })
})
