/** Directories that a node's configuration declares as images: read, held, told and named. */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { DeclaredImage } from '../../../src/node/config/image-settings.ts'
import { DeclaredImages } from '../../../src/node/images/declared-images.ts'
import { openFileWorkers } from '../../../src/files/workers/file-workers.ts'
import { openFsBlobStore } from '../../../src/store/fs-blob-store.ts'
import { ImageOrder } from '../../../src/wire/images.ts'
import { elfFile } from '../../files/elf-file.ts'
import { peerOf } from '../../scheduler/samples.ts'
import { log } from '../../store/support.ts'
import { ManualClock } from '../manual-clock.ts'

const root = mkdtempSync(join(tmpdir(), 'mesh-declared-'))
after(() => rmSync(root, { recursive: true }))

function make(name: string): DeclaredImage {
  const path = join(root, name)
  mkdirSync(join(path, 'bin'), { recursive: true })
  writeFileSync(join(path, 'bin/sh'), elfFile({ machine: 3, bits: 32, isLittle: true }))
  return { name, path, publish: true }
}
async function until(is: () => boolean): Promise<void> {
  while (!is()) await new Promise(setImmediate)
}

test('declared-images: read into the store, held there, told, and named once the owner answers', async () => {
  const clock = new ManualClock()
  await using workers = openFileWorkers({ log })
  await using store = await openFsBlobStore(
    { clock, log, workers },
    { directory: join(root, 's1') },
  )
  const orders: [path: string, order: ImageOrder][] = []
  const answers = [
    { status: 503, body: '{}' },
    { status: 200, body: '{}' },
  ]
  let changes = 0
  const declared = [make('one'), { ...make('two'), publish: false, system: 'x86_64-linux' }]
  const images = new DeclaredImages(
    {
      clock,
      log,
      store,
      self: () => ({ peerId: peerOf('w1'), name: 'w1' }),
      async ask(path, body) {
        orders.push([path, ImageOrder.parse(JSON.parse(body))])
        return answers.shift() ?? { status: 200, body: '{}' }
      },
      onChange: () => (changes += 1),
    },
    declared,
  )
  images.start()
  await until(
    () => images.ready.length === 2 && orders.length === 1 && clock.pendingMs().length > 0,
  )
  assert.deepEqual(
    images.ready.map(({ name, system }) => [name, system]),
    [
      ['one', 'i686-linux'],
      ['two', 'x86_64-linux'],
    ],
  )
  assert.equal(changes, 2)
  clock.step(5_000)
  await until(() => orders.length === 2)
  const [, [path, order] = []] = orders
  assert.equal(path, '/api/images/one')
  assert.deepEqual([order?.isNew, order?.from.name, order?.fileCount], [true, 'w1', 2])
  const digests = images.ready.map(({ digest }) => digest)
  for (const digest of digests) assert.equal(await store.has(digest), true)
  const heldDigests = (): unknown[] => [...store.leases.entries()].map(({ digest }) => digest)
  for (const digest of digests) assert.ok(heldDigests().includes(digest))
  await images[Symbol.asyncDispose]()
  assert.deepEqual(heldDigests(), [])
})

test('declared-images: a directory that is not there yet is waited for; a refused name is not asked for again', async () => {
  const clock = new ManualClock()
  await using workers = openFileWorkers({ log })
  await using store = await openFsBlobStore(
    { clock, log, workers },
    { directory: join(root, 's2') },
  )
  let asks = 0
  const images = new DeclaredImages(
    {
      clock,
      log,
      store,
      self: () => ({ peerId: peerOf('w1'), name: 'w1' }),
      async ask() {
        asks += 1
        return { status: 409, body: '{"detail":"taken"}' }
      },
      onChange() {},
    },
    [{ name: 'later', path: join(root, 'later'), publish: true }],
  )
  images.start()
  assert.deepEqual(images.ready, [])
  make('later')
  // The store has timers of its own: which of them is the wait does not matter.
  await until(() => {
    clock.step(60_000)
    return asks > 0
  })
  assert.deepEqual(
    images.ready.map(({ name }) => name),
    ['later'],
  )
  for (let turn = 0; turn < 10; turn++) {
    clock.step(60_000)
    await new Promise(setImmediate)
  }
  assert.equal(asks, 1)
  await images[Symbol.asyncDispose]()
})
