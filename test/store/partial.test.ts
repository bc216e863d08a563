/** Partial blobs: chunks in any order, wrong and forged ones, crashes, a full disk, and who shares what. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { systemClock, type Clock } from '../../src/base/clock.ts'
import type { BlobStore } from '../../src/store/blob-store.ts'
import { mapLimited } from '../../src/files/map-limited.ts'
import { openChunkIndex, type ChunkIndex } from '../../src/store/chunks/chunk-index.ts'
import { openFsBlobStore } from '../../src/store/fs-blob-store.ts'
import { openPartialBlobs } from '../../src/store/partial/part-directory.ts'
import type { PartialBlob, PartialBlobs } from '../../src/store/partial/partial-blobs.ts'
import { CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, type ChunkList } from '../../src/wire/chunk-list.ts'
import { sha256, type BlobRef } from '../../src/wire/digest.ts'
import { bytesOf, readAll, refOf } from '../contract/blob-store.ts'
import { chunkListOf, until, watchedWorkers, type WatchedWorkers } from './chunk-support.ts'
import { log, StepClock, temporaryDirectory } from './support.ts'

const MIB = 1024 * 1024
const WHOLE = bytesOf(5 * MIB, 4)
const LIST = chunkListOf(WHOLE)

interface Lab extends AsyncDisposable {
  readonly store: BlobStore
  readonly index: ChunkIndex
  readonly blobs: PartialBlobs
  readonly workers: WatchedWorkers
  /** Where the parts are. */
  readonly path: string
}

/** All in `directory`, which may be used again after it was closed. */
async function openLab(
  directory: string,
  options: {
    readonly clock?: Clock
    readonly leftBytesMax?: number
    readonly adopt?: (path: string, ref: BlobRef) => Promise<void>
  } = {},
): Promise<Lab> {
  const { clock = systemClock(), adopt, ...limits } = options
  await using stack = new AsyncDisposableStack()
  const store = stack.use(await openFsBlobStore({ clock, log }, { directory }))
  const workers = stack.use(watchedWorkers())
  const index = stack.use(
    await openChunkIndex({ store, workers, log }, { directory: join(directory, 'chunks') }),
  )
  const putFile = async (path: string, ref: BlobRef): Promise<void> =>
    assert.deepEqual(await store.putFile(path, { move: true }), ref)
  const path = join(directory, 'part')
  const blobs = stack.use(
    await openPartialBlobs(
      { store, chunks: index, workers, clock, log, adopt: adopt ?? putFile },
      { directory: path, ...limits },
    ),
  )
  const all = stack.move()
  return { store, index, blobs, workers, path, [Symbol.asyncDispose]: () => all.disposeAsync() }
}

const refOfList = ({ digest, size }: ChunkList): BlobRef => ({ digest, size })
const open = (blobs: PartialBlobs, list: ChunkList): Promise<PartialBlob> =>
  blobs.open(refOfList(list), list)

function chunkBytes(list: ChunkList, whole: Uint8Array, chunk: number): Uint8Array {
  const { offset = 0, length = 0 } = list.chunks[chunk] ?? {}
  return whole.subarray(offset, offset + length)
}

const put = (part: PartialBlob, whole: Uint8Array, chunk: number): Promise<boolean> =>
  part.write(chunk, chunkBytes(part.list, whole, chunk))

async function putAll(part: PartialBlob, whole: Uint8Array, order?: number[]): Promise<void> {
  for (const chunk of order ?? part.list.chunks.keys()) assert(await put(part, whole, chunk))
}

test('partial-blobs: chunks in any order, some of them twice and at once, become the blob', async () => {
  using directory = temporaryDirectory()
  await using lab = await openLab(directory.path)
  const numbers = [...LIST.chunks.keys()]
  const anyOrder = fc.tuple(
    fc.shuffledSubarray(numbers, { minLength: numbers.length }),
    fc.subarray(numbers),
  )
  await fc.assert(
    fc.asyncProperty(anyOrder, async ([order, again]) => {
      await lab.store.delete(LIST.digest)
      await using part = await open(lab.blobs, LIST)
      const writes = [...order, ...again].map((chunk) => put(part, WHOLE, chunk))
      assert((await Promise.all(writes)).every(Boolean))
      assert.equal(part.missingCount, 0)
      assert.equal(await lab.store.has(LIST.digest), false)
      await part.finish()
      assert.deepEqual(await readAll(await lab.store.open(LIST.digest)), WHOLE)
    }),
    { numRuns: 15 },
  )
  assert.deepEqual(readdirSync(lab.path), [])
  assert.deepEqual(lab.blobs.stats(), { count: 0, bytes: 0 })
})

test('partial-blobs: blobs of 0 bytes, of 1, and of sizes around the bounds of a chunk', async () => {
  using directory = temporaryDirectory()
  await using lab = await openLab(directory.path)
  for (const size of [
    0,
    1,
    CHUNK_BYTES_MIN - 1,
    CHUNK_BYTES_MIN,
    CHUNK_BYTES_MIN + 1,
    CHUNK_BYTES_MAX - 1,
    CHUNK_BYTES_MAX,
    CHUNK_BYTES_MAX + 1,
  ])
    for (const whole of [bytesOf(size, 2), new Uint8Array(size)]) {
      await using part = await open(lab.blobs, chunkListOf(whole))
      await putAll(part, whole)
      assert.deepEqual(Buffer.from((await part.read(0, size)) ?? []), Buffer.from(whole))
      await part.finish()
      const stored = await lab.store.read(refOf(whole).digest, size)
      assert.deepEqual(Buffer.from(stored ?? 'x'), Buffer.from(whole))
      assert.equal(await part.read(0, size), undefined, 'it is a blob by now')
    }
})

test('partial-blobs: wrong bytes are refused and leave nothing', async () => {
  using directory = temporaryDirectory()
  await using lab = await openLab(directory.path)
  await using part = await open(lab.blobs, LIST)
  const right = chunkBytes(LIST, WHOLE, 3)
  const flipped = Uint8Array.from(right)
  flipped[right.byteLength - 1] = (flipped[right.byteLength - 1] ?? 0) ^ 1
  const longer = Buffer.concat([right, right])
  for (const wrong of [
    flipped,
    right.subarray(1),
    longer,
    new Uint8Array(),
    chunkBytes(LIST, WHOLE, 2),
  ])
    assert.equal(await part.write(3, wrong), false)
  assert.equal(part.has(3), false)
  assert.equal(part.missingCount, LIST.chunks.length)
  assert.equal(lab.blobs.stats().bytes, 0)
  assert.equal(statSync(join(lab.path, `${LIST.digest}.data`)).blocks, 0)
  // A liar at the same time does not spoil the right one.
  assert.deepEqual(
    await Promise.all([part.write(3, flipped), part.write(3, right), part.write(3, flipped)]),
    [false, true, false],
  )
  assert(part.has(3))
  assert.equal(await part.write(3, flipped), true, 'it is here already')
  assert.deepEqual(await part.read(LIST.chunks[3]?.offset ?? 0, right.byteLength), right)
})

test('partial-blobs: tells which chunks are here, when they come, and in a copy', async () => {
  using directory = temporaryDirectory()
  await using lab = await openLab(directory.path)
  await using part = await open(lab.blobs, LIST)
  const told: number[] = []
  const listening = part.onChunk((chunk) => {
    assert(part.has(chunk))
    told.push(chunk)
  })
  for (const chunk of [9, 0, 9]) await put(part, WHOLE, chunk)
  const bits = part.bitmap()
  assert.equal(bits.byteLength, Math.ceil(LIST.chunks.length / 8))
  assert.deepEqual([bits[0], bits[1]], [1, 2])
  bits.fill(255)
  assert.equal(part.has(1), false)
  listening[Symbol.dispose]()
  await put(part, WHOLE, 1)
  assert.deepEqual(told, [9, 0])
  assert.equal(lab.blobs.find(LIST.digest), part)
  assert.equal(lab.blobs.find(sha256('other')), undefined)
})

test('partial-blobs: equal chunks need to come once', async () => {
  using directory = temporaryDirectory()
  await using lab = await openLab(directory.path)
  const whole = Buffer.concat([new Uint8Array(3 * MIB), bytesOf(100_000), new Uint8Array(2 * MIB)])
  const list = chunkListOf(whole)
  const zeros = sha256(new Uint8Array(MIB))
  const equal = [...list.chunks.keys()].filter((chunk) => list.chunks[chunk]?.digest === zeros)
  assert(equal.length >= 3)
  await using part = await open(lab.blobs, list)
  const told: number[] = []
  part.onChunk((chunk) => told.push(chunk))
  assert(await part.write(equal[1] ?? 0, new Uint8Array(MIB)))
  assert.deepEqual(told, equal)
  assert.equal(part.missingCount, list.chunks.length - equal.length)
  await putAll(part, whole)
  await part.finish()
  assert(await lab.store.has(list.digest))
})

test('partial-blobs: reads what is here, across chunks, and nothing else', async () => {
  using directory = temporaryDirectory()
  await using lab = await openLab(directory.path)
  await using part = await open(lab.blobs, LIST)
  const here = new Set([2, 3, 4, 8])
  for (const chunk of here) await put(part, WHOLE, chunk)
  const anyRange = fc.record({
    offset: fc.integer({ min: 0, max: WHOLE.byteLength }),
    length: fc.integer({ min: 0, max: MIB }),
  })
  const check = async (offset: number, length: number): Promise<void> => {
    const end = offset + length
    const touched = [...LIST.chunks.keys()].filter((at) => {
      const chunk = LIST.chunks[at]
      return chunk !== undefined && chunk.offset < end && chunk.offset + chunk.length > offset
    })
    const isHere = end <= WHOLE.byteLength && (length === 0 || touched.every((at) => here.has(at)))
    const bytes = await part.read(offset, length)
    assert.equal(bytes !== undefined, isHere, `${offset}+${length}`)
    if (bytes !== undefined) assert.deepEqual(Buffer.from(bytes), WHOLE.subarray(offset, end))
  }
  await fc.assert(fc.asyncProperty(anyRange, ({ offset, length }) => check(offset, length)))
  const [first, last] = [LIST.chunks[2], LIST.chunks[4]]
  assert(first !== undefined && last !== undefined)
  const end = last.offset + last.length
  for (const [from, to] of [
    [first.offset, end],
    [first.offset + 1, end - 1],
    [first.offset - 1, end],
    [first.offset, end + 1],
    [last.offset - 1, last.offset + 1],
    [WHOLE.byteLength, WHOLE.byteLength + 1],
  ] as const)
    await check(from, to - from)
})

test('partial-blobs: a forged list never becomes a blob, and nothing of it is kept', async () => {
  using directory = temporaryDirectory()
  await using lab = await openLab(directory.path)
  // Its chunks are those of other bytes: each of them is right, the whole is not.
  const other = bytesOf(5 * MIB, 99)
  const forged = { ...refOf(WHOLE), chunks: chunkListOf(other).chunks }
  {
    await using part = await open(lab.blobs, forged)
    await putAll(part, other)
    await assert.rejects(part.finish(), { code: 'MESH0502', message: /forged/ })
    await assert.rejects(part.finish(), { code: 'MESH0502' })
    assert.equal(lab.blobs.find(WHOLE_REF.digest), undefined)
  }
  assert.deepEqual(readdirSync(lab.path), [])
  assert.deepEqual(lab.blobs.stats(), { count: 0, bytes: 0 })
  assert.deepEqual(lab.store.stats(), { count: 0, bytes: 0 })
  // One with wrong digests: what comes does not fit, so it never gets to the end.
  const chunks = LIST.chunks.map((chunk, at) =>
    at === 1 ? { ...chunk, digest: sha256('x') } : chunk,
  )
  {
    await using part = await open(lab.blobs, { ...LIST, chunks })
    assert.equal(await put(part, WHOLE, 1), false)
    for (const chunk of [0, 2, 3]) assert(await put(part, WHOLE, chunk))
  }
  // With another list one starts over; the right one gets there.
  await using part = await open(lab.blobs, LIST)
  assert.equal(part.missingCount, LIST.chunks.length)
  await putAll(part, WHOLE)
  await part.finish()
  assert.deepEqual(await readAll(await lab.store.open(LIST.digest)), WHOLE)
})
const WHOLE_REF = refOf(WHOLE)

test('partial-blobs: a list of another blob is refused', async () => {
  using directory = temporaryDirectory()
  await using lab = await openLab(directory.path)
  const other = refOf(bytesOf(10))
  await assert.rejects(lab.blobs.open(other, LIST), { code: 'MESH0502' })
  await assert.rejects(lab.blobs.open({ ...WHOLE_REF, size: 5 }, LIST), { code: 'MESH0502' })
  assert.deepEqual(readdirSync(lab.path), [])
})

test('partial-blobs: goes on where it was left, in this process and in the next', async () => {
  using directory = temporaryDirectory()
  {
    await using lab = await openLab(directory.path)
    {
      await using part = await open(lab.blobs, LIST)
      for (const chunk of [0, 1, 7]) await put(part, WHOLE, chunk)
    }
    assert.equal(lab.blobs.find(LIST.digest), undefined)
    assert.equal(lab.blobs.stats().count, 1)
    await using part = await open(lab.blobs, LIST)
    assert.equal(part.missingCount, LIST.chunks.length - 3)
    await put(part, WHOLE, 8)
    // Not disposed of before the directory is: that closes it.
    await lab.blobs[Symbol.asyncDispose]()
    await assert.rejects(open(lab.blobs, LIST), { code: 'MESH0108' })
  }
  await using lab = await openLab(directory.path)
  const held = [0, 1, 7, 8].reduce((sum, chunk) => sum + (LIST.chunks[chunk]?.length ?? 0), 0)
  assert.deepEqual(lab.blobs.stats(), { count: 1, bytes: held })
  await using part = await open(lab.blobs, LIST)
  assert.deepEqual(
    [...LIST.chunks.keys()].filter((chunk) => part.has(chunk)),
    [0, 1, 7, 8],
  )
  const rest = [...LIST.chunks.keys()].filter((chunk) => !part.has(chunk))
  await putAll(part, WHOLE, rest)
  await part.finish()
  assert.deepEqual(await readAll(await lab.store.open(LIST.digest)), WHOLE)
})

test('partial-blobs: a chunk that the map names is hashed before it is believed', async () => {
  using directory = temporaryDirectory()
  {
    await using lab = await openLab(directory.path)
    await using part = await open(lab.blobs, LIST)
    for (const chunk of [0, 1, 2]) await put(part, WHOLE, chunk)
  }
  // As if power had failed: the map reached the disk, one of the chunks did not.
  const data = openSync(join(directory.path, 'part', `${LIST.digest}.data`), 'r+')
  writeSync(data, new Uint8Array(10), 0, 10, (LIST.chunks[1]?.offset ?? 0) + 77)
  closeSync(data)
  await using lab = await openLab(directory.path)
  await using part = await open(lab.blobs, LIST)
  assert.deepEqual([part.has(0), part.has(1), part.has(2)], [true, false, true])
  await putAll(part, WHOLE)
  await part.finish()
  assert.deepEqual(await readAll(await lab.store.open(LIST.digest)), WHOLE)
})

test('partial-blobs: a map that cannot be read, files without the other and foreign ones', async () => {
  using directory = temporaryDirectory()
  {
    await using lab = await openLab(directory.path)
    await using part = await open(lab.blobs, LIST)
    await put(part, WHOLE, 0)
  }
  const path = join(directory.path, 'part')
  writeFileSync(join(path, `${LIST.digest}.map`), 'nonsense')
  for (const name of [
    'README',
    `${sha256('a')}.data`,
    `${sha256('b')}.map`,
    `${sha256('c')}.map.new`,
  ])
    writeFileSync(join(path, name), '')
  await using lab = await openLab(directory.path)
  assert.deepEqual(readdirSync(path), ['README'])
  assert.deepEqual(lab.blobs.stats(), { count: 0, bytes: 0 })
})

/** Writes chunks from the last to the first, says which, and is killed in the midst of it. */
const WRITER = `
import { readFileSync } from 'node:fs'
import { systemClock } from ${JSON.stringify(import.meta.resolve('../../src/base/clock.ts'))}
import { Chunker } from ${JSON.stringify(import.meta.resolve('../../src/files/fastcdc.ts'))}
import { inlineFileWorkers } from ${JSON.stringify(import.meta.resolve('../../src/files/workers/file-workers.ts'))}
import { openPartialBlobs } from ${JSON.stringify(import.meta.resolve('../../src/store/partial/part-directory.ts'))}
import { sha256 } from ${JSON.stringify(import.meta.resolve('../../src/wire/digest.ts'))}
const [directory, file] = process.argv.slice(1)
const whole = readFileSync(file)
const chunker = new Chunker()
chunker.add(whole)
const ref = { digest: sha256(whole), size: whole.byteLength }
const log = { warn() {} }
const blobs = await openPartialBlobs({ workers: inlineFileWorkers(), clock: systemClock(), log }, { directory })
const part = await blobs.open(ref, { ...ref, chunks: chunker.finish() })
for (const [chunk, { offset, length }] of [...part.list.chunks.entries()].toReversed()) {
  if (part.has(chunk)) continue
  await part.write(chunk, whole.subarray(offset, offset + length))
  process.stdout.write(chunk + '\\n')
}
setInterval(() => {}, 1000)
`

test(
  'partial-blobs: a process killed while it writes leaves what it had, but for the last of it',
  { timeout: 120_000 },
  async () => {
    using directory = temporaryDirectory()
    const whole = bytesOf(40 * MIB, 8)
    const list = chunkListOf(whole)
    const file = join(directory.path, 'whole')
    writeFileSync(file, whole)
    const parts = join(directory.path, 'store', 'part')
    mkdirSync(parts, { recursive: true })
    let doneBytes = 0
    for (const lines of [70, 30]) {
      const child = spawn(
        process.execPath,
        ['--conditions=source', '--input-type=module', '-e', WRITER, parts, file],
        { stdio: ['ignore', 'pipe', 'inherit'] },
      )
      let output = ''
      child.stdout.setEncoding('utf8')
      for await (const piece of child.stdout) {
        output += String(piece)
        if (output.split('\n').length > lines) child.kill('SIGKILL')
      }
      if (child.signalCode === null) await once(child, 'exit')
      assert.equal(child.signalCode, 'SIGKILL')
      for (const line of output.split('\n').slice(0, -1))
        doneBytes += list.chunks[Number(line)]?.length ?? 0
    }
    await using lab = await openLab(join(directory.path, 'store'))
    await using part = await open(lab.blobs, list)
    const keptBytes = lab.blobs.stats().bytes
    // Each of the two deaths lost less than what is written between two maps.
    assert(keptBytes > 0 && doneBytes - keptBytes < 2 * 17 * MIB, `${keptBytes} of ${doneBytes}`)
    for (const [chunk, { offset, length }] of list.chunks.entries())
      if (part.has(chunk))
        assert.deepEqual(await part.read(offset, length), chunkBytes(list, whole, chunk))
    await putAll(part, whole)
    await part.finish()
    assert.deepEqual(await readAll(await lab.store.open(list.digest)), whole)
    assert.deepEqual(readdirSync(lab.path), [])
  },
)

test(
  'partial-blobs: the map is written a second after a chunk came, and after many at once',
  { timeout: 60_000 },
  async () => {
    using directory = temporaryDirectory()
    const clock = new StepClock()
    await using lab = await openLab(directory.path, { clock })
    await using part = await open(lab.blobs, LIST)
    const map = join(lab.path, `${LIST.digest}.map`)
    await put(part, WHOLE, 0)
    clock.step(999)
    await put(part, WHOLE, 1)
    assert.equal(existsSync(map), false)
    clock.step(1)
    await until(() => existsSync(map))

    const whole = bytesOf(24 * MIB, 6)
    const list = chunkListOf(whole)
    await using bigger = await open(lab.blobs, list)
    await putAll(bigger, whole)
    await until(() => existsSync(join(lab.path, `${list.digest}.map`)))
  },
)

test('partial-blobs: a full disk is told, keeps what is there, and passes', async (context) => {
  using directory = temporaryDirectory()
  const options = ['-t', 'tmpfs', '-o', 'size=22m,mode=755', 'none', directory.path]
  if (spawnSync('mount', options).status !== 0) {
    context.skip('mount of a tmpfs is not possible here')
    return
  }
  try {
    const whole = bytesOf(10 * MIB, 5)
    const list = chunkListOf(whole)
    await using lab = await openLab(directory.path)
    const filler = join(directory.path, 'filler')
    writeFileSync(filler, bytesOf(15 * MIB, 1))
    await using part = await open(lab.blobs, list)
    await assert.rejects(putAll(part, whole), { code: 'MESH0503' })
    const missing = [...list.chunks.keys()].filter((chunk) => !part.has(chunk))
    assert(missing.length > 0 && missing.length < list.chunks.length)
    assert.equal(part.missingCount, missing.length)
    await assert.rejects(put(part, whole, missing[0] ?? 0), { code: 'MESH0503' })
    for (const [chunk, { offset, length }] of list.chunks.entries())
      assert.deepEqual(
        await part.read(offset, length),
        part.has(chunk) ? chunkBytes(list, whole, chunk) : undefined,
      )
    rmSync(filler)
    await putAll(part, whole, missing)
    await part.finish()
    assert(await lab.store.has(list.digest))
  } finally {
    assert.equal(spawnSync('umount', [directory.path]).status, 0)
  }
})

test('partial-blobs: what nobody works at is bounded by bytes and by age, oldest first', async () => {
  using directory = temporaryDirectory()
  const clock = new StepClock()
  const wholes = [1, 2, 3, 4].map((seed) => bytesOf(300_000, seed))
  const lists = wholes.map(chunkListOf)
  const names = (): string[] =>
    readdirSync(join(directory.path, 'part'))
      .filter((name) => name.endsWith('.data'))
      .map((name) => name.slice(0, 64))
      .toSorted()
  const leave = async (blobs: PartialBlobs, at: number): Promise<void> => {
    const [list, whole] = [lists[at], wholes[at]]
    assert(list !== undefined && whole !== undefined)
    await using part = await open(blobs, list)
    await putAll(part, whole)
    clock.step(1000)
  }
  const named = (...at: number[]): string[] => at.map((one) => lists[one]?.digest ?? '').toSorted()
  {
    await using lab = await openLab(directory.path, { clock, leftBytesMax: 900_000 })
    for (const at of [0, 1, 2]) await leave(lab.blobs, at)
    assert.deepEqual(names(), named(0, 1, 2))
    await leave(lab.blobs, 0) // used again
    await leave(lab.blobs, 3)
    assert.deepEqual(names(), named(0, 2, 3))
    assert.deepEqual(lab.blobs.stats(), { count: 3, bytes: 900_000 })
    await lab.blobs.trim(600_000)
    assert.deepEqual(names(), named(0, 3))
  }
  clock.step(7 * 24 * 3_600_000 - 500)
  await using lab = await openLab(directory.path, { clock })
  assert.deepEqual(names(), named(3), 'one is a week old')
  assert(lists[3] !== undefined)
  await using part = await open(lab.blobs, lists[3])
  clock.step(7 * 24 * 3_600_000)
  await lab.blobs.trim(0)
  assert.deepEqual(names(), named(3), 'it is being worked at')
  await part[Symbol.asyncDispose]()
  await lab.blobs.trim(0)
  assert.deepEqual(names(), [])
})

test('partial-blobs: a new version takes from local blobs what it shares with them', async () => {
  using directory = temporaryDirectory()
  await using lab = await openLab(directory.path)
  const old = Buffer.concat([WHOLE, Buffer.alloc(MIB)])
  const next = Buffer.concat([
    WHOLE.subarray(0, 2 * MIB),
    Buffer.from('more'),
    WHOLE.subarray(2 * MIB),
  ])
  const list = chunkListOf(next)
  const stored = await lab.store.put(old)
  await lab.index.listOf(stored.digest)
  await using part = await open(lab.blobs, list)
  const takenBytes = await part.fillFromLocal()
  const missing = [...list.chunks.keys()].filter((chunk) => !part.has(chunk))
  assert.equal(missing.length, part.missingCount)
  assert(missing.length > 0 && missing.length <= 4, `${missing.length} of ${list.chunks.length}`)
  const missingBytes = missing.reduce((sum, chunk) => sum + (list.chunks[chunk]?.length ?? 0), 0)
  assert.equal(takenBytes, next.byteLength - missingBytes)
  assert.equal(await part.fillFromLocal(), 0)
  await putAll(part, next, missing)
  await part.finish()
  assert.deepEqual(await readAll(await lab.store.open(list.digest)), next)
})

test('partial-blobs: takes nothing from a local blob that is damaged or gone', async () => {
  using directory = temporaryDirectory()
  await using lab = await openLab(directory.path)
  const old = Buffer.concat([WHOLE, Buffer.alloc(MIB)])
  const { digest } = await lab.store.put(old)
  await lab.index.listOf(digest)
  const path = await lab.store.pathOf(digest, false)
  assert(path !== undefined)
  writeFileSync(path, bytesOf(old.byteLength, 77), { mode: 0o644 })
  await using part = await open(lab.blobs, LIST)
  assert.equal(await part.fillFromLocal(), 0)
  await lab.store.delete(digest)
  assert.equal(await part.fillFromLocal(), 0)
  assert.equal(part.missingCount, LIST.chunks.length)
})

test('partial-blobs: those who open the same share it, and the last closes it', async () => {
  using directory = temporaryDirectory()
  await using lab = await openLab(directory.path)
  const [one, two] = await Promise.all([open(lab.blobs, LIST), open(lab.blobs, LIST)])
  assert.equal(one, two)
  await put(one, WHOLE, 0)
  await one[Symbol.asyncDispose]()
  assert(await put(two, WHOLE, 1))
  const [closing, three] = [two[Symbol.asyncDispose](), await open(lab.blobs, LIST)]
  await closing
  assert.notEqual(three, two)
  assert.equal(three.missingCount, LIST.chunks.length - 2)
  await assert.rejects(put(two, WHOLE, 2), /closed/)
  assert.equal(await two.read(0, 10), undefined)
  await putAll(three, WHOLE)
  // One who comes while it is being finished does not touch the file that becomes the blob.
  const finishing = [three.finish(), three.finish()]
  const four = await open(lab.blobs, LIST)
  await Promise.all(finishing)
  await lab.store.delete(LIST.digest)
  const five = await open(lab.blobs, LIST)
  assert.equal(five.missingCount, LIST.chunks.length)
  await putAll(five, WHOLE)
  await five.finish()
  for (const part of new Set([three, four, five])) await part[Symbol.asyncDispose]()
  assert.deepEqual(await readAll(await lab.store.open(LIST.digest)), WHOLE)
  assert.deepEqual(readdirSync(lab.path), [])
})

test('partial-blobs: closing waits for what is being read and written', async () => {
  using directory = temporaryDirectory()
  await using lab = await openLab(directory.path)
  const part = await open(lab.blobs, LIST)
  await putAll(part, WHOLE, [...LIST.chunks.keys()].slice(1))
  const end = LIST.chunks[0]?.length ?? 0
  const reads = Array.from({ length: 32 }, (_, at) => part.read(end + at, MIB))
  await part[Symbol.asyncDispose]()
  for (const [at, bytes] of (await Promise.all(reads)).entries())
    assert.deepEqual(Buffer.from(bytes ?? []), WHOLE.subarray(end + at, end + at + MIB))
  await assert.rejects(put(part, WHOLE, 0), /closed/)
})

test('partial-blobs: no map comes after the blob, though one was being written', async () => {
  using directory = temporaryDirectory()
  const clock = new StepClock()
  const adopt = async (path: string): Promise<void> => rmSync(path)
  await using lab = await openLab(directory.path, { clock, adopt })
  await using part = await open(lab.blobs, LIST)
  await putAll(part, WHOLE)
  clock.step(1000)
  await part.finish()
  // Longer than a map takes.
  for (let look = 0; look < 20; look++) assert.deepEqual(await readdir(lab.path), [])
})

test('partial-blobs: what comes in order is not read again, what does not is hashed in a thread', async () => {
  using directory = temporaryDirectory()
  await using lab = await openLab(directory.path)
  const whole = bytesOf(40 * MIB, 12)
  const list = chunkListOf(whole)
  const numbers = [...list.chunks.keys()]
  const pairwise = numbers.map((chunk) => Math.min(chunk ^ 1, numbers.length - 1))
  for (const [order, atOnce, jobs] of [
    [numbers, 1, [0]],
    // Whether reading back keeps up is a matter of speed; the blob is right in any case.
    [pairwise, 1, [0, 1]],
    [numbers, 4, [0, 1]],
    [numbers.toReversed(), 1, [1]],
  ] as const) {
    await lab.store.delete(list.digest)
    lab.workers.started.length = 0
    await using part = await open(lab.blobs, list)
    await mapLimited(order, atOnce, (chunk) => put(part, whole, chunk))
    await putAll(part, whole)
    await part.finish()
    assert(jobs.some((count) => count === lab.workers.started.length))
  }
})

test('partial-blobs: offsets beyond 32 bits', async () => {
  using directory = temporaryDirectory()
  // 5 GiB with holes: only some of it is ever written.
  const count = 5 * 1024
  const tail = bytesOf(MIB, 21)
  const list: ChunkList = {
    digest: sha256('5 GiB'),
    size: count * MIB,
    chunks: Array.from({ length: count }, (_, at) => ({
      digest: at === 4097 || at === count - 1 ? sha256(tail) : sha256(`chunk ${at}`),
      offset: at * MIB,
      length: MIB,
    })),
  }
  for (const isAgain of [false, true]) {
    await using lab = await openLab(directory.path)
    await using part = await open(lab.blobs, list)
    assert.equal(part.has(4097), isAgain)
    assert(await part.write(count - 1, tail))
    assert(part.has(4097) && !part.has(4096))
    assert.equal(part.missingCount, count - 2)
    assert.deepEqual(
      Buffer.from((await part.read(4097 * MIB + 5, 1000)) ?? []),
      tail.subarray(5, 1005),
    )
    assert.deepEqual(Buffer.from((await part.read(list.size - 7, 7)) ?? []), tail.subarray(-7))
    assert.equal(await part.read(2 ** 32, 10), undefined)
  }
})
