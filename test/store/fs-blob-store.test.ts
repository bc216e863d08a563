/** The file store: the contract, and what only files can get wrong. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  cpSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../src/base/clock.ts'
import { openBlobIndex } from '../../src/store/blob-index.ts'
import { openFsBlobStore, type FsBlobStore } from '../../src/store/fs-blob-store.ts'
import type { Digest } from '../../src/wire/digest.ts'
import { blobStoreContract, bytesOf, readAll, refOf, text } from '../contract/blob-store.ts'
import { log, StepClock, temporaryDirectory } from './support.ts'

const open = (directory: string): Promise<FsBlobStore> =>
  openFsBlobStore({ clock: systemClock(), log }, { directory })
const pathIn = (directory: string, digest: Digest): string =>
  join(directory, 'blob', digest.slice(0, 2), digest)

blobStoreContract('fs-blob-store', async () => {
  const directory = temporaryDirectory()
  const store = await open(join(directory.path, 'store'))
  const dispose = store[Symbol.asyncDispose].bind(store)
  return Object.assign(store, {
    async [Symbol.asyncDispose]() {
      await dispose()
      assert.deepEqual(readdirSync(join(directory.path, 'store', 'tmp')), [], 'tmp/ is empty')
      directory[Symbol.dispose]()
    },
  })
})

test('fs-blob-store: keeps blobs as read-only files in the layout of a mirror', async () => {
  using directory = temporaryDirectory()
  await using store = await open(directory.path)
  const { digest } = await store.put(text('hello'))
  const path = pathIn(directory.path, digest)
  assert.equal(await store.pathOf(digest, false), path)
  assert.equal(readFileSync(path, 'utf8'), 'hello')
  assert.equal(statSync(path).mode & 0o777, 0o444)
  const executable = await store.pathOf(digest, true)
  assert(executable !== undefined)
  assert.equal(statSync(executable).mode & 0o777, 0o555)
  assert.notEqual(statSync(executable).ino, statSync(path).ino)
  assert.equal(statSync(executable).mtimeMs, statSync(path).mtimeMs)
  await store.delete(digest)
  assert.equal(existsSync(executable), false)
})

test('fs-blob-store: is there again after a restart, without reading blobs', async () => {
  using directory = temporaryDirectory()
  const big = bytesOf(1_000_000)
  {
    await using store = await open(directory.path)
    await store.put(big)
    await store.put(text('x'))
  }
  // Same size, so that only hashing would notice.
  chmodSync(pathIn(directory.path, refOf(big).digest), 0o644)
  writeFileSync(pathIn(directory.path, refOf(big).digest), bytesOf(1_000_000, 2))
  await using store = await open(directory.path)
  assert.deepEqual(store.stats(), { count: 2, bytes: 1_000_001 })
  assert(await store.has(refOf(big).digest))
})

test('fs-blob-store: rebuilds its index from the files', async () => {
  using directory = temporaryDirectory()
  const refs = Array.from({ length: 300 }, (_, at) => refOf(text(`blob ${at}`)))
  {
    await using store = await open(directory.path)
    for (const at of refs.keys()) await store.put(text(`blob ${at}`))
  }
  rmSync(join(directory.path, 'index'), { recursive: true })
  await using store = await open(directory.path)
  assert.deepEqual(await store.missing(refs), [])
  assert.equal(store.stats().count, 300)
})

test('fs-blob-store: throws a corrupt index away', async () => {
  using directory = temporaryDirectory()
  {
    await using store = await open(directory.path)
    await store.put(text('kept'))
  }
  writeFileSync(join(directory.path, 'index', 'CURRENT'), 'nonsense')
  await using store = await open(directory.path)
  assert(await store.has(refOf(text('kept')).digest))
})

test('fs-blob-store: a truncated or vanished file is no blob', async () => {
  using directory = temporaryDirectory()
  await using store = await open(directory.path)
  for (const size of [100, 100_000]) {
    const truncated = await store.put(bytesOf(size))
    chmodSync(pathIn(directory.path, truncated.digest), 0o644)
    truncateSync(pathIn(directory.path, truncated.digest), size - 1)
    assert.equal(
      size === 100 ? await store.read(truncated.digest, size) : await store.open(truncated.digest),
      undefined,
    )
    assert.equal(await store.has(truncated.digest), false)
    const vanished = await store.put(bytesOf(size, 2))
    rmSync(pathIn(directory.path, vanished.digest))
    assert.equal(await store.pathOf(vanished.digest, false), undefined)
    assert.equal(await store.has(vanished.digest), false)
    await store.put(bytesOf(size))
    assert.deepEqual(await readAll(await store.open(truncated.digest)), bytesOf(size))
  }
})

test('fs-blob-store: refuses a store of a newer format, and one that is in use', async () => {
  using directory = temporaryDirectory()
  {
    await using first = await open(directory.path)
    assert.equal(first.stats().count, 0)
    await assert.rejects(open(directory.path), { code: 'MESH0105' })
  }
  writeFileSync(join(directory.path, 'format'), '2\n')
  await assert.rejects(open(directory.path), (error: Error) => {
    assert.match(error.message, /format "2".*knows 1/)
    assert.match(error.message, new RegExp(directory.path))
    return 'code' in error && error.code === 'MESH0106'
  })
})

test('fs-blob-store: a moved file becomes the blob itself, unless it has another name', async () => {
  using directory = temporaryDirectory()
  await using store = await open(join(directory.path, 'store'))
  const path = join(directory.path, 'output')
  writeFileSync(path, bytesOf(100_000))
  const { ino } = statSync(path)
  const { digest } = await store.putFile(path, { move: true })
  assert.equal(statSync(pathIn(join(directory.path, 'store'), digest)).ino, ino)

  writeFileSync(path, bytesOf(100_000, 2), { mode: 0o755 })
  linkSync(path, join(directory.path, 'other-name'))
  const copied = await store.putFile(path, { move: true })
  writeFileSync(join(directory.path, 'other-name'), 'changed')
  assert.deepEqual(await readAll(await store.open(copied.digest)), bytesOf(100_000, 2))
  assert.equal(existsSync(path), false)
})

test('fs-blob-store: a path can be linked, however many names there are', async () => {
  using directory = temporaryDirectory()
  await using store = await open(join(directory.path, 'store'))
  const { digest } = await store.put(text('popular'))
  const inodes = new Set<number>()
  // T10: more than ext4 allows for one inode.
  for (const [executable, count] of [
    [false, 70_000],
    [true, 33_000],
  ] as const) {
    for (let at = 0; at < count; at++) {
      const path = (await store.pathOf(digest, executable)) ?? assert.fail()
      linkSync(path, join(directory.path, `${executable}-${at}`))
      if (at === 0 || at === count - 1) inodes.add(statSync(path).ino)
    }
    const last = join(directory.path, `${executable}-${count - 1}`)
    assert.equal(readFileSync(last, 'utf8'), 'popular')
    assert.equal(statSync(last).mode & 0o777, executable ? 0o555 : 0o444)
  }
  assert.equal(inodes.size, 4)
  assert.deepEqual(store.stats(), { count: 1, bytes: 7 })
  assert.deepEqual((await store.usage()).executables, { count: 1, bytes: 7 })
})

test('fs-blob-store: checkpoints sync what is new, on time and at the end', async () => {
  using directory = temporaryDirectory()
  const clock = new StepClock()
  const store = await openFsBlobStore({ clock, log }, { directory: directory.path })
  const checkpoint = (): { atWallMs: number; clean: boolean } =>
    JSON.parse(readFileSync(join(directory.path, 'checkpoint.json'), 'utf8'))
  await store.put(text('one'))
  assert.equal(checkpoint().atWallMs, 0)
  const atWallMs = clock.wallMs() + 60_000
  await clock.run(
    (async () => {
      while (checkpoint().atWallMs !== atWallMs) await new Promise(setImmediate)
    })(),
    60_000,
  )
  assert.equal(checkpoint().clean, false)
  await store[Symbol.asyncDispose]()
  assert.equal(checkpoint().clean, true)
})

test('fs-blob-store: after a crash hashes what is newer than the checkpoint, and only that', async () => {
  using directory = temporaryDirectory()
  const [before, after] = ['before', 'after'].map((name) => join(directory.path, name))
  assert(before !== undefined && after !== undefined)
  const old = refOf(bytesOf(1000, 1))
  const fresh = refOf(bytesOf(1000, 2))
  const whole = refOf(bytesOf(1000, 3))
  {
    await using store = await open(before)
    await store.put(bytesOf(1000, 1))
  }
  {
    await using store = await open(before)
    await store.put(bytesOf(1000, 2))
    await store.put(bytesOf(1000, 3))
    // What a power cut at this moment leaves, of which some contents did not reach the disk.
    cpSync(before, after, { recursive: true })
  }
  for (const { digest } of [old, fresh]) {
    chmodSync(pathIn(after, digest), 0o644)
    writeFileSync(pathIn(after, digest), new Uint8Array(1000))
  }
  writeFileSync(join(after, 'tmp', '7'), 'garbage')
  await using store = await open(after)
  assert.equal(await store.has(fresh.digest), false)
  assert.equal(existsSync(pathIn(after, fresh.digest)), false)
  assert.equal(await store.has(whole.digest), true)
  assert.equal(await store.has(old.digest), true)
  await store.recovered
  assert.deepEqual(store.stats(), { count: 2, bytes: 2000 })
  assert.deepEqual(readdirSync(join(after, 'tmp')), [])
})

test('fs-blob-store: what was put is in the index on the disk', async () => {
  using directory = temporaryDirectory()
  const [before, after] = ['before', 'after'].map((name) => join(directory.path, name))
  assert(before !== undefined && after !== undefined)
  const refs = Array.from({ length: 2_000 }, (_, at) => refOf(text(`blob ${at}`)))
  await using store = await open(before)
  await Promise.all(refs.map((_, at) => store.put(text(`blob ${at}`))))
  // As a kill at this moment leaves it; without the files, so that it is not found by them.
  cpSync(join(before, 'index'), join(after, 'index'), { recursive: true })
  const { index } = await openBlobIndex({ log }, { directory: join(after, 'index') })
  assert.equal(refs.filter(({ digest }) => index.find(digest) === undefined).length, 0)
  assert.deepEqual(index.stats(), store.stats())
  await index.close()
})

/** Puts blobs, says which, and is killed in the midst of it. */
const WRITER = `
import { systemClock } from ${JSON.stringify(import.meta.resolve('../../src/base/clock.ts'))}
import { openFsBlobStore } from ${JSON.stringify(import.meta.resolve('../../src/store/fs-blob-store.ts'))}
import { pino } from ${JSON.stringify(import.meta.resolve('pino'))}
const [directory, first] = process.argv.slice(1)
const store = await openFsBlobStore({ clock: systemClock(), log: pino({ level: 'silent' }) }, { directory })
for (let at = Number(first); ; at++) {
  const bytes = Buffer.alloc(at % 3 === 0 ? 900_000 : 3_000, String(at))
  const ref = await store.put(at % 2 === 0 ? (async function* () { for (let from = 0; from < bytes.length; from += 60_000) yield bytes.subarray(from, from + 60_000) })() : bytes)
  process.stdout.write(ref.digest + ' ' + ref.size + '\\n')
}
`

test(
  'fs-blob-store: a process killed at any moment leaves whole blobs only',
  { timeout: 60_000 },
  async () => {
    using directory = temporaryDirectory()
    const stored = new Map<string, number>()
    for (let round = 0; round < 8; round++) {
      const child = spawn(
        process.execPath,
        ['--input-type=module', '-e', WRITER, directory.path, String(round * 1000)],
        {
          stdio: ['ignore', 'pipe', 'inherit'],
        },
      )
      let output = ''
      let lines = 0
      child.stdout.setEncoding('utf8')
      for await (const piece of child.stdout) {
        output += String(piece)
        lines = output.split('\n').length - 1
        if (lines > 5 + round * 7) child.kill('SIGKILL')
      }
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
      assert.equal(child.signalCode, 'SIGKILL')
      for (const line of output.split('\n').slice(0, lines)) {
        const [digest = '', size] = line.split(' ')
        stored.set(digest, Number(size))
      }
      await using store = await open(directory.path)
      let count = 0
      for await (const { digest, size } of store.list()) {
        count++
        const bytes = await store.read(digest, size)
        assert.deepEqual(refOf(bytes ?? new Uint8Array()), { digest, size })
        stored.delete(digest)
      }
      // What it told to be stored is there: only a power cut may take it.
      assert.deepEqual([...stored], [])
      assert.equal(store.stats().count, count)
      assert.deepEqual(readdirSync(join(directory.path, 'tmp')), [])
    }
  },
)

test('fs-blob-store: a foreign file among the blobs is left alone', async () => {
  using directory = temporaryDirectory()
  {
    await using store = await open(directory.path)
    await store.put(text('x'))
  }
  mkdirSync(join(directory.path, 'blob', 'ab'))
  const foreign = join(directory.path, 'blob', 'ab', 'README')
  writeFileSync(foreign, '')
  mkdirSync(join(directory.path, 'blob', 'ab', 'ab'.repeat(32)))
  rmSync(join(directory.path, 'index'), { recursive: true })
  await using store = await open(directory.path)
  await store.recovered
  assert(lstatSync(foreign).isFile())
  assert.equal(store.stats().count, 1)
})
