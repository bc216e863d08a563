/** Trees as paths of the host: shared with the store, never writable through it, and bounded. */
import assert from 'node:assert/strict'
import {
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { pino } from 'pino'
import { systemClock } from '../../src/base/clock.ts'
import { hasCode } from '../../src/base/errors.ts'
import { openMaterialised, type MaterialisedTrees } from '../../src/build/materialised.ts'
import { hashingSink, ingest } from '../../src/files/ingest.ts'
import { openFileWorkers } from '../../src/files/workers/file-workers.ts'
import { ReadMeter } from '../../src/node/blobs/read-meter.ts'
import type { BlobStore } from '../../src/store/blob-store.ts'
import { openFsBlobStore } from '../../src/store/fs-blob-store.ts'
import { EMPTY_DIGEST, sha256, type Digest } from '../../src/wire/digest.ts'
import { encodeTree, type Entry } from '../../src/wire/tree.ts'
import { temporaryDirectory } from '../store/support.ts'

const log = pino({ level: 'silent' })

interface World extends AsyncDisposable {
  readonly path: string
  readonly store: BlobStore
  readonly trees: MaterialisedTrees
}

async function setUp(limits: { entriesMax?: number; bytesMax?: number } = {}): Promise<World> {
  const directory = temporaryDirectory()
  const workers = openFileWorkers({ log })
  const store = await openFsBlobStore(
    { clock: systemClock(), log, workers },
    { directory: join(directory.path, 'store') },
  )
  const trees = await openMaterialised(
    { store, log, workers },
    { directory: join(directory.path, 'trees'), ...limits },
  )
  return {
    path: directory.path,
    store,
    trees,
    async [Symbol.asyncDispose]() {
      await trees[Symbol.asyncDispose]()
      await store[Symbol.asyncDispose]()
      await workers[Symbol.asyncDispose]()
      directory[Symbol.dispose]()
    },
  }
}

async function directoryEntry(
  world: World,
  fill: (path: string) => void,
  name = 'source',
): Promise<Extract<Entry, { kind: 'dir' }>> {
  const path = join(world.path, name)
  mkdirSync(path)
  fill(path)
  const entry = await ingest(
    hashingSink(async ({ ref, open }) => void (await world.store.put(open(), ref))),
    path,
  )
  assert(entry.kind === 'dir')
  return entry
}

test('materialised: trimmed, only what somebody uses stays', async () => {
  await using world = await setUp()
  const [used, unused] = [
    await directoryEntry(world, (path) => writeFileSync(join(path, 'a'), 'used'), 'one'),
    await directoryEntry(world, (path) => writeFileSync(join(path, 'a'), 'unused'), 'two'),
  ]
  const kept = await world.trees.acquire(used)
  const left = await world.trees.acquire(unused)
  left.release()
  await world.trees.trim()
  assert.equal(readFileSync(join(kept.path, 'a'), 'utf8'), 'used')
  assert.equal(statSync(left.path, { throwIfNoEntry: false }), undefined)
})

test('materialised: a tree is made of links to the store, once', async () => {
  await using world = await setUp()
  const entry = await directoryEntry(world, (path) => {
    mkdirSync(join(path, 'd'))
    writeFileSync(join(path, 'd/file'), 'content')
    writeFileSync(join(path, 'run'), 'content', { mode: 0o755 })
    writeFileSync(join(path, 'empty'), '')
    symlinkSync('d/file', join(path, 'link'))
  })
  const [first, second] = await Promise.all([
    world.trees.acquire(entry),
    world.trees.acquire(entry),
  ])
  assert.equal(first.path, second.path)
  const file = statSync(join(first.path, 'd/file'))
  const run = statSync(join(first.path, 'run'))
  const inStore = (executable: boolean) => world.store.pathOf(sha256('content'), executable)
  assert.equal(file.ino, statSync((await inStore(false)) ?? '').ino)
  assert.equal(run.ino, statSync((await inStore(true)) ?? '').ino)
  assert.deepEqual(
    [file.mode & 0o777, run.mode & 0o777, file.mtimeMs, run.mtimeMs],
    [0o444, 0o555, 1000, 1000],
  )
  assert.equal(statSync(first.path).mtimeMs, 1000)
  assert.equal(readlinkSync(join(first.path, 'link')), 'd/file')
  // All empty files of all builds would be one inode.
  const empty = lstatSync(join(first.path, 'empty'))
  assert.deepEqual([empty.size, empty.nlink, empty.mode & 0o777], [0, 1, 0o444])
  first.release()
  first.release()
  assert.equal((await world.trees.acquire(entry)).path, second.path)
})

test('materialised: files are those of the store', async () => {
  await using world = await setUp()
  const ref = await world.store.put(Buffer.from('x'))
  const file = await world.trees.acquire({ kind: 'file', ...ref, executable: true })
  assert.equal(readFileSync(file.path, 'utf8'), 'x')
  file.release()
  await assert.rejects(
    world.trees.acquire({ kind: 'file', digest: sha256('y'), size: 1, executable: false }),
    { code: 'MESH0501' },
  )
})

test('materialised: what is missing is named, and nothing half-made is left', async () => {
  await using world = await setUp()
  const entry = await directoryEntry(world, (path) => {
    writeFileSync(join(path, 'a'), 'here')
    writeFileSync(join(path, 'b'), 'evicted')
  })
  await world.store.delete(sha256('evicted'))
  await assert.rejects(world.trees.acquire(entry), { code: 'MESH0501' })
  assert.deepEqual(readdirSync(join(world.path, 'trees/tmp')), [])
  await world.store.put(Buffer.from('evicted'))
  assert.equal(readFileSync(join((await world.trees.acquire(entry)).path, 'b'), 'utf8'), 'evicted')
})

test('materialised: unused trees go when there is no room, used ones stay', async () => {
  await using world = await setUp({ entriesMax: 10 })
  const entries = []
  for (let at = 0; at < 4; at++)
    entries.push(
      await directoryEntry(
        world,
        (path) => {
          for (let file = 0; file < 4; file++) writeFileSync(join(path, `${file}`), `${at}`)
        },
        `source${at}`,
      ),
    )
  const used = await world.trees.acquire(entries[0] ?? assert.fail())
  for (const entry of entries.slice(1)) (await world.trees.acquire(entry)).release()
  const kept = readdirSync(join(world.path, 'trees/tree'))
  assert.deepEqual(new Set(kept), new Set([entries[0]?.digest, entries[3]?.digest]))
  assert.equal(readFileSync(join(used.path, '0'), 'utf8'), '0')
})

test('materialised: copies for unsealed builds share nothing', async () => {
  await using world = await setUp()
  const entry = await directoryEntry(world, (path) => {
    writeFileSync(join(path, 'file'), 'content')
    writeFileSync(join(path, 'run'), 'content', { mode: 0o755 })
    symlinkSync('/etc', join(path, 'link'))
  })
  await world.trees.copyOut(entry, join(world.path, 'copy'))
  writeFileSync(join(world.path, 'copy/file'), 'scribble')
  writeFileSync(join(world.path, 'copy/run'), 'scribble')
  assert.equal(readlinkSync(join(world.path, 'copy/link')), '/etc')
  assert.equal(statSync(join(world.path, 'copy/run')).mode & 0o777, 0o755)
  assert.equal(
    Buffer.from((await world.store.read(sha256('content'), 100)) ?? []).toString(),
    'content',
  )
  await world.trees.copyOut({ kind: 'symlink', target: 'x' }, join(world.path, 'link'))
  assert.equal(readlinkSync(join(world.path, 'link')), 'x')
  await assert.rejects(world.trees.copyOut(entry, join(world.path, 'copy')), /EEXIST/)
})

test('materialised: more links than the file system allows', async (context) => {
  await using world = await setUp()
  const ref = await world.store.put(Buffer.from('popular'))
  const path = (await world.store.pathOf(ref.digest, true)) ?? assert.fail()
  const links = join(world.path, 'links')
  mkdirSync(links)
  try {
    for (let at = 0; at < 70_000; at++) linkSync(path, join(links, String(at)))
    context.skip('this file system has no limit of links below 70,000')
    return
  } catch (error) {
    assert(hasCode(error, 'EMLINK'), String(error))
  }
  const entry: Entry = { kind: 'file', ...ref, executable: true }
  const bytes = encodeTree(['a', 'b', 'c'].map((name) => ({ name, entry })))
  const tree = await world.trees.acquire({ kind: 'dir', ...(await world.store.put(bytes)) })
  assert.equal(readFileSync(join(tree.path, 'c'), 'utf8'), 'popular')
  // One copy, and further links to that.
  const copy = statSync(join(tree.path, 'a'))
  assert.notEqual(copy.ino, statSync(join(links, '0')).ino)
  assert.deepEqual([copy.mode & 0o777, copy.mtimeMs], [0o555, 1000])
  assert.equal(statSync(join(tree.path, 'c')).ino, copy.ino)
})

test('materialised: a file that is evicted under the links is asked for again', async () => {
  await using world = await setUp()
  const ref = await world.store.put(Buffer.from('moves'))
  const bytes = encodeTree([{ name: 'f', entry: { kind: 'file', ...ref, executable: false } }])
  const entry = { kind: 'dir', ...(await world.store.put(bytes)) } as const
  let isFirst = true
  class Moving extends ReadMeter {
    override async pathOf(digest: Digest, executable: boolean): Promise<string | undefined> {
      const path = await super.pathOf(digest, executable)
      if (!isFirst) return path
      isFirst = false
      return `${path}-gone`
    }
  }
  const store = new Moving(world.store)
  await using trees = await openMaterialised(
    { store, log },
    { directory: join(world.path, 'others') },
  )
  assert.equal(readFileSync(join((await trees.acquire(entry)).path, 'f'), 'utf8'), 'moves')
})

test('materialised: deep and wide trees are whole, linked and copied', async () => {
  await using world = await setUp()
  const entry = await directoryEntry(world, (path) => {
    for (let at = 0; at < 50; at++) {
      const below = join(path, `d${at % 7}`, `e${at}`, 'f')
      mkdirSync(below, { recursive: true })
      for (let file = 0; file < 6; file++)
        writeFileSync(join(below, `${file}`), `${file % 5}`, { mode: file % 2 ? 0o755 : 0o644 })
    }
    for (let file = 0; file < 1100; file++) writeFileSync(join(path, `wide${file}`), `${file % 9}`)
  })
  const linked = await world.trees.acquire(entry)
  await world.trees.copyOut(entry, join(world.path, 'copy'))
  for (const path of [linked.path, join(world.path, 'copy')]) {
    const again = await ingest(
      hashingSink(() => undefined),
      path,
    )
    assert.deepEqual(again, entry)
  }
})

test('materialised: what an earlier process left is gone', async () => {
  await using world = await setUp()
  mkdirSync(join(world.path, 'trees/tree', sha256('old')))
  writeFileSync(join(world.path, 'trees/tmp/1'), '')
  await using trees = await openMaterialised(
    { store: world.store, log },
    { directory: join(world.path, 'trees') },
  )
  const empty = await trees.acquire({ kind: 'dir', ...(await world.store.put(encodeTree([]))) })
  assert.deepEqual(readdirSync(empty.path), [])
  assert.deepEqual(readdirSync(join(world.path, 'trees/tree')).length, 1)
  assert.notEqual(empty.path.includes(EMPTY_DIGEST), true)
})
