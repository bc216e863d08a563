/** The file store does with worker threads what it does without. */
import assert from 'node:assert/strict'
import { mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../src/base/clock.ts'
import { hashingSink, ingest } from '../../src/files/ingest.ts'
import { openFileWorkers } from '../../src/files/workers/file-workers.ts'
import type { BlobStore } from '../../src/store/blob-store.ts'
import { openFsBlobStore } from '../../src/store/fs-blob-store.ts'
import { openMemoryBlobStore } from '../../src/store/memory-blob-store.ts'
import { sha256, type Digest } from '../../src/wire/digest.ts'
import { blobStoreContract } from '../contract/blob-store.ts'
import { log, temporaryDirectory } from '../store/support.ts'

async function openStore(): Promise<BlobStore> {
  const directory = temporaryDirectory()
  const workers = openFileWorkers({ log })
  const path = join(directory.path, 'store')
  const store = await openFsBlobStore({ clock: systemClock(), log, workers }, { directory: path })
  const dispose = store[Symbol.asyncDispose].bind(store)
  return Object.assign(store, {
    async [Symbol.asyncDispose]() {
      await dispose()
      await workers[Symbol.asyncDispose]()
      assert.deepEqual(readdirSync(join(path, 'tmp')), [])
      directory[Symbol.dispose]()
    },
  })
}

blobStoreContract('store-with-workers', openStore)

for (const [name, open] of [
  ['file', openStore],
  ['memory', async () => openMemoryBlobStore()],
] as const)
  test(`store-with-workers: a ${name} store takes a whole tree`, async () => {
    using directory = temporaryDirectory()
    await using store = await open()
    const path = join(directory.path, 'out')
    mkdirSync(join(path, 'd/e'), { recursive: true })
    for (let at = 0; at < 600; at++) writeFileSync(join(path, 'd', `${at}`), `${at % 7}`)
    writeFileSync(join(path, 'd/e/run'), '#!', { mode: 0o755 })
    writeFileSync(join(path, 'big'), Buffer.alloc(700_000, 'big'))
    symlinkSync('d', join(path, 'link'))
    const blobs = new Map<Digest, number>()
    const expected = await ingest(
      hashingSink(({ ref }) => void blobs.set(ref.digest, ref.size)),
      path,
    )
    assert.deepEqual(await store.putTree(path), expected)
    for (const [digest, size] of blobs)
      assert.equal(sha256((await store.read(digest, size)) ?? ''), digest)
    assert.equal(store.stats().count, blobs.size)

    const bad = join(directory.path, 'bad')
    mkdirSync(join(bad, 'd'), { recursive: true })
    writeFileSync(join(bad, 'a'), 'a')
    writeFileSync(Buffer.concat([Buffer.from(`${bad}/d/`), Buffer.from([0xff])]), '')
    await assert.rejects(store.putTree(bad), { code: 'MESH0207' })
    await assert.rejects(store.putTree(join(bad, 'absent')), { code: 'MESH0205' })
  })
