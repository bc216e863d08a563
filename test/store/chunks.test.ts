/** The chunk index: lists of blobs, places of chunks, and what becomes of both when blobs come and go. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../src/base/clock.ts'
import { inlineFileWorkers, openFileWorkers } from '../../src/files/workers/file-workers.ts'
import type { BlobStore } from '../../src/store/blob-store.ts'
import { openChunkIndex, type ChunkIndex } from '../../src/store/chunks/chunk-index.ts'
import { openChunkTable } from '../../src/store/chunks/chunk-table.ts'
import { openFsBlobStore } from '../../src/store/fs-blob-store.ts'
import { casRoutes } from '../../src/store/http-routes.ts'
import { openMemoryBlobStore } from '../../src/store/memory-blob-store.ts'
import { CHUNKED_BYTES_MIN, decodeChunkList, encodeChunkList } from '../../src/wire/chunk-list.ts'
import { sha256, type Digest } from '../../src/wire/digest.ts'
import { bytesOf, readAll } from '../contract/blob-store.ts'
import { chunkListOf, until, watchedWorkers, type WatchedWorkers } from './chunk-support.ts'
import { log, temporaryDirectory, turnOver } from './support.ts'

const BIG = bytesOf(CHUNKED_BYTES_MIN + 1_000_000, 3)
/** The same with something put in. */
const NEXT = Buffer.concat([
  BIG.subarray(0, 2_000_000),
  Buffer.from('more'),
  BIG.subarray(2_000_000),
])

interface Lab extends AsyncDisposable {
  readonly store: BlobStore
  readonly index: ChunkIndex
  readonly workers: WatchedWorkers
  readonly path: string
}

async function openLab(options: { readonly chunksMax?: number } = {}): Promise<Lab> {
  await using stack = new AsyncDisposableStack()
  const { path } = stack.use(temporaryDirectory())
  const store = stack.use(await openFsBlobStore({ clock: systemClock(), log }, { directory: path }))
  const workers = stack.use(watchedWorkers())
  const index = stack.use(
    await openChunkIndex({ store, workers, log }, { directory: join(path, 'chunks'), ...options }),
  )
  const all = stack.move()
  return { store, index, workers, path, [Symbol.asyncDispose]: () => all.disposeAsync() }
}

test('chunk-index: makes the list of a stored blob, in a thread or here, and always the same', async () => {
  const expected = chunkListOf(BIG)
  assert(expected.chunks.length > 10)
  await using lab = await openLab()
  const { digest } = await lab.store.put(BIG)
  assert.deepEqual(await lab.index.listOf(digest), expected)
  assert.deepEqual(await lab.index.encodedListOf(digest), Buffer.from(encodeChunkList(expected)))
  assert.equal(lab.workers.started.length, 1, 'the second time it was there')

  using directory = temporaryDirectory()
  await using store = openMemoryBlobStore()
  await store.put(BIG)
  await using threads = openFileWorkers({ log })
  await using inMemory = await openChunkIndex(
    { store, workers: threads, log },
    { directory: join(directory.path, 'memory') },
  )
  assert.deepEqual(await inMemory.listOf(digest), expected)
  await using threaded = await openChunkIndex(
    { store: lab.store, workers: threads, log },
    { directory: join(directory.path, 'threaded') },
  )
  assert.deepEqual(await threaded.listOf(digest), expected)
})

test('chunk-index: small and absent blobs have no list', async () => {
  await using lab = await openLab()
  const small = await lab.store.put(bytesOf(CHUNKED_BYTES_MIN))
  assert.equal(await lab.index.listOf(small.digest), undefined)
  assert.equal(await lab.index.listOf(sha256('absent')), undefined)
  assert.equal(lab.workers.started.length, 0)
})

test('chunk-index: who asks at the same time waits for the same list', async () => {
  await using lab = await openLab()
  const { digest } = await lab.store.put(BIG)
  const lists = await Promise.all(Array.from({ length: 8 }, () => lab.index.listOf(digest)))
  for (const list of lists) assert.deepEqual(list, chunkListOf(BIG))
  assert.equal(lab.workers.started.length, 1)
})

test('chunk-index: makes two lists at once, and has no list for whom it would keep waiting', async () => {
  await using lab = await openLab()
  const blobs = await Promise.all(
    Array.from({ length: 4 }, (_, seed) =>
      lab.store.put(bytesOf(CHUNKED_BYTES_MIN + 1, seed + 20)),
    ),
  )
  const gate = Promise.withResolvers<void>()
  lab.workers.gate = gate.promise
  const lists = blobs.map(({ digest }) => lab.index.listOf(digest))
  await until(() => lab.workers.started.length === 2)
  // As many as may wait: the rest of the places is taken by what is not even here.
  const slow = Promise.withResolvers<number | undefined>()
  lab.store.sizeOf = () => slow.promise
  const absent = Array.from({ length: 60 }, (_, at) => lab.index.listOf(sha256(`absent ${at}`)))
  assert.equal(await lab.index.listOf(sha256('one too many')), undefined)
  assert.equal(lab.workers.started.length, 2)
  slow.resolve(undefined)
  assert.deepEqual(
    await Promise.all(absent),
    absent.map(() => undefined),
  )
  gate.resolve()
  for (const [at, list] of (await Promise.all(lists)).entries())
    assert.equal(list?.digest, blobs[at]?.digest)
})

test('chunk-index: a new blob is chunked in the background, so that the next version finds it', async () => {
  await using lab = await openLab()
  const ref = await lab.store.put(BIG)
  lab.index.add(ref)
  const { chunks } = chunkListOf(BIG)
  await until(() => lab.index.chunkCount === chunks.length)
  const shared = chunkListOf(NEXT).chunks.filter(({ digest }) =>
    chunks.some((chunk) => chunk.digest === digest),
  )
  assert(shared.length >= chunks.length - 4)
  for (const { digest, length } of shared) {
    let place = await lab.index.locate(digest)
    while (place === undefined) {
      await turnOver()
      place = await lab.index.locate(digest)
    }
    const range = { offsetBytes: place.offset, lengthBytes: place.length }
    const bytes = await readAll(await lab.store.open(place.blob, range))
    assert.equal(sha256(bytes ?? ''), digest)
    assert.equal(place.length, length)
  }
})

test('chunk-index: the queue of new blobs drops the oldest when it is full', async () => {
  await using lab = await openLab()
  const asked: Digest[] = []
  const first = Promise.withResolvers<undefined>()
  lab.store.sizeOf = (digest) => {
    asked.push(digest)
    return asked.length === 1 ? first.promise : Promise.resolve(undefined)
  }
  const nameOf = (at: number): Digest => sha256(`blob ${at}`)
  for (let at = 0; at <= 1001; at++)
    lab.index.add({ digest: nameOf(at), size: CHUNKED_BYTES_MIN + 1 })
  lab.index.add({ digest: sha256('small'), size: CHUNKED_BYTES_MIN })
  first.resolve(undefined)
  await until(() => asked.includes(nameOf(1001)))
  assert.equal(new Set(asked).size, 1001)
  assert(!asked.includes(nameOf(1)) && asked.includes(nameOf(2)))
  assert(!asked.includes(sha256('small')))
})

test('chunk-index: chunks of an evicted blob are not found, and found again when it is back', async () => {
  await using lab = await openLab()
  const ref = await lab.store.put(BIG)
  const list = await lab.index.listOf(ref.digest)
  const chunk = list?.chunks[5]
  assert(chunk !== undefined)
  const place = { blob: ref.digest, offset: chunk.offset, length: chunk.length }
  assert.deepEqual(await lab.index.locate(chunk.digest), place)
  await lab.store.delete(ref.digest)
  assert.equal(await lab.index.locate(chunk.digest), undefined)
  await lab.store.put(BIG)
  assert.equal(await lab.index.locate(chunk.digest), undefined, 'its place was dropped')
  lab.index.add(ref)
  await until(async () => (await lab.index.locate(chunk.digest)) !== undefined)
  assert.deepEqual(await lab.index.locate(chunk.digest), place)
  assert.equal(lab.workers.started.length, 1, 'its list was kept')
})

test('chunk-index: is bounded, forgets the oldest list, and keeps what a newer blob has', async () => {
  const [chunks, nextChunks] = [chunkListOf(BIG).chunks, chunkListOf(NEXT).chunks]
  await using lab = await openLab({ chunksMax: chunks.length + nextChunks.length - 1 })
  const { digest } = await lab.store.put(BIG)
  const next = await lab.store.put(NEXT)
  await lab.index.listOf(digest)
  await lab.index.listOf(next.digest)
  assert.equal(lab.index.chunkCount, nextChunks.length)
  for (const chunk of nextChunks)
    assert.equal((await lab.index.locate(chunk.digest))?.blob, next.digest)
  const own = chunks.filter((chunk) => nextChunks.every((other) => other.digest !== chunk.digest))
  assert(own.length > 0)
  for (const chunk of own) assert.equal(await lab.index.locate(chunk.digest), undefined)
  // It can be made again, and pushes the other out.
  assert.deepEqual((await lab.index.listOf(digest))?.chunks, chunks)
  assert.equal(lab.index.chunkCount, chunks.length)
})

test('chunk-index: knows after a restart what it knew, and begins anew when that is damaged', async () => {
  using directory = temporaryDirectory()
  await using store = openMemoryBlobStore()
  const { digest } = await store.put(BIG)
  const open = (): Promise<ChunkIndex> =>
    openChunkIndex({ store, workers: inlineFileWorkers(), log }, { directory: directory.path })
  {
    await using index = await open()
    await index.listOf(digest)
    await assert.rejects(open(), { code: 'MESH0105' })
  }
  const count = chunkListOf(BIG).chunks.length
  {
    await using index = await open()
    assert.equal(index.chunkCount, count)
    assert.equal((await index.locate(chunkListOf(BIG).chunks[1]?.digest ?? digest))?.blob, digest)
  }
  {
    const table = await openChunkTable({ log }, { directory: directory.path, chunksMax: 1000 })
    const damaged = chunkListOf(NEXT)
    await table.put(damaged, Buffer.from('no list'))
    await table.close()
    await store.put(NEXT)
    await using index = await open()
    assert.equal(await index.listOf(damaged.digest), undefined)
    assert.deepEqual(await index.listOf(damaged.digest), chunkListOf(NEXT))
  }
  writeFileSync(join(directory.path, 'CURRENT'), 'nonsense')
  await using index = await open()
  assert.equal(index.chunkCount, 0)
  assert.deepEqual(await index.listOf(digest), chunkListOf(BIG))
})

test('chunk-index: a blob that is cut off or goes while it is read gives no list', async () => {
  await using lab = await openLab()
  const { digest } = await lab.store.put(BIG)
  const path = await lab.store.pathOf(digest, false)
  assert(path !== undefined)
  const gate = Promise.withResolvers<void>()
  lab.workers.gate = gate.promise
  const truncated = lab.index.listOf(digest)
  await until(() => lab.workers.started.length === 1)
  chmodSync(path, 0o644)
  truncateSync(path, BIG.byteLength - 1)
  gate.resolve()
  await assert.rejects(truncated, { code: 'MESH0502' })
  assert.equal(lab.index.chunkCount, 0)

  const next = await lab.store.put(NEXT)
  const goOn = Promise.withResolvers<void>()
  lab.workers.gate = goOn.promise
  const evicted = lab.index.listOf(next.digest)
  await until(() => lab.workers.started.length === 2)
  await lab.store.delete(next.digest)
  goOn.resolve()
  assert.equal(await evicted, undefined)
})

test('chunk-index: ends at once, whatever it does', async () => {
  const lab = await openLab()
  const { digest } = await lab.store.put(BIG)
  const gate = Promise.withResolvers<void>()
  lab.workers.gate = gate.promise
  const asked = lab.index.listOf(digest)
  asked.catch(() => undefined)
  await until(() => lab.workers.started.length === 1)
  const ending = lab.index[Symbol.asyncDispose]()
  gate.resolve()
  await ending
  await assert.rejects(asked)
})

test('chunk-index: the list of a blob is served beside it over HTTP', async (context) => {
  await using lab = await openLab()
  const { digest } = await lab.store.put(BIG)
  const small = await lab.store.put(bytesOf(10))
  const actions = { find: async () => undefined }
  const routes = casRoutes({ store: lab.store, actions, chunks: lab.index, log })
  const without = casRoutes({ store: lab.store, actions, log })
  const server = createServer((request, response) => {
    const handle = request.headers['x-without'] === undefined ? routes : without
    void handle(request, response)
  })
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve))
  context.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const address = server.address()
  assert(typeof address === 'object' && address !== null)
  const get = (path: string, init: RequestInit = {}): Promise<Response> =>
    fetch(`http://127.0.0.1:${address.port}${path}`, init)
  for (const path of [
    `/cas/${digest}.chunks`,
    `/cas/sha256/${digest.slice(0, 2)}/${digest}.chunks`,
  ]) {
    const response = await get(path)
    assert.equal(response.status, 200)
    assert.equal(response.headers.get('content-type'), 'application/cbor')
    assert.match(response.headers.get('cache-control') ?? '', /immutable/)
    assert.deepEqual(decodeChunkList(await response.bytes()), chunkListOf(BIG))
    const head = await get(path, { method: 'HEAD' })
    assert.equal(
      Number(head.headers.get('content-length')),
      encodeChunkList(chunkListOf(BIG)).byteLength,
    )
    assert.equal((await get(path, { headers: { 'x-without': '1' } })).status, 404)
  }
  for (const [path, status] of [
    [`/cas/${small.digest}.chunks`, 404],
    [`/cas/${sha256('absent')}.chunks`, 404],
    [`/cas/${digest}.chunks.chunks`, 400],
    [`/cas/${digest.slice(1)}.chunks`, 400],
    [`/ac/${digest}.chunks`, 400],
    [`/cas/sha256/00/${digest.replace(/^../, 'ff')}.chunks`, 400],
  ] as const) {
    const response = await get(path)
    assert.equal(response.status, status, path)
    assert.equal(response.headers.get('cache-control'), 'no-store')
  }
  assert.equal((await get(`/cas/${digest}.chunks`, { method: 'PUT' })).status, 405)
})

test(
  'chunk-index: a full disk costs nothing but the memory of it',
  { timeout: 60_000 },
  async (context) => {
    using directory = temporaryDirectory()
    const options = ['-t', 'tmpfs', '-o', 'size=12m,mode=755', 'none', directory.path]
    if (spawnSync('mount', options).status !== 0) {
      context.skip('mount of a tmpfs is not possible here')
      return
    }
    try {
      await using store = openMemoryBlobStore()
      const { digest } = await store.put(BIG)
      const open = (): Promise<ChunkIndex> =>
        openChunkIndex(
          { store, workers: inlineFileWorkers(), log },
          { directory: join(directory.path, 'chunks') },
        )
      const first = chunkListOf(BIG).chunks[0]?.digest ?? digest
      const filler = join(directory.path, 'filler')
      {
        await using index = await open()
        assert.throws(() => writeFileSync(filler, bytesOf(13_000_000)), { code: 'ENOSPC' })
        assert.deepEqual(await index.listOf(digest), chunkListOf(BIG))
        assert.equal(await index.locate(first), undefined)
        for (const seed of [31, 32, 33]) {
          const bytes = bytesOf(CHUNKED_BYTES_MIN + 1, seed)
          assert.deepEqual(await index.listOf((await store.put(bytes)).digest), chunkListOf(bytes))
        }
        rmSync(filler)
        index.add({ digest, size: BIG.byteLength })
        await until(async () => (await index.locate(first)) !== undefined)
      }
      // What was written after the failure is there again.
      await using index = await open()
      assert.deepEqual(await index.listOf(digest), chunkListOf(BIG))
      assert.equal((await index.locate(first))?.blob, digest)
    } finally {
      assert.equal(spawnSync('umount', [directory.path]).status, 0)
    }
  },
)
