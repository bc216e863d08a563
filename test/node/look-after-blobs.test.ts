/** What a node says when it is asked whether it has something whole: the truth of its disk, not of its index. */
import assert from 'node:assert/strict'
import { chmodSync, rmSync, writeFileSync } from 'node:fs'
import { test, type TestContext } from 'node:test'
import { checkBlobs } from '../../src/node/blobs/look-after-blobs.ts'
import { openFsBlobStore, type FsBlobStore } from '../../src/store/fs-blob-store.ts'
import { sha256, type Digest } from '../../src/wire/digest.ts'
import { encodeTree, type Entry } from '../../src/wire/tree.ts'
import { StepClock, log, never, temporaryDirectory } from '../store/support.ts'

interface Place {
  readonly store: FsBlobStore
  readonly suspected: Digest[]
  /** A directory with two files, one of them in a directory. */
  readonly tree: Entry
  readonly inner: Digest
  readonly check: (...entries: readonly Entry[]) => Promise<readonly Digest[]>
  readonly pathOf: (digest: Digest) => Promise<string>
}

async function open(t: TestContext): Promise<Place> {
  const directory = temporaryDirectory()
  const store = await openFsBlobStore(
    { clock: new StepClock(), log },
    { directory: directory.path },
  )
  t.after(async () => {
    await store[Symbol.asyncDispose]()
    directory[Symbol.dispose]()
  })
  const outer = await store.put(Buffer.alloc(100_000, 'outer'))
  const inner = await store.put(Buffer.alloc(300_000, 'inner'))
  const file = (ref: { digest: Digest; size: number }): Entry => ({
    kind: 'file',
    ...ref,
    executable: false,
  })
  const below = await store.put(encodeTree([{ name: 'inner', entry: file(inner) }]))
  const tree = await store.put(
    encodeTree([
      { name: 'below', entry: { kind: 'dir', ...below } },
      { name: 'link', entry: { kind: 'symlink', target: 'outer' } },
      { name: 'outer', entry: file(outer) },
    ]),
  )
  const suspected: Digest[] = []
  return {
    store,
    suspected,
    tree: { kind: 'dir', ...tree },
    inner: inner.digest,
    async check(...entries) {
      const watched = {
        open: store.open.bind(store),
        read: store.read.bind(store),
        suspect: (digest: Digest) => void suspected.push(digest),
      }
      return (await checkBlobs(watched, entries, never)).held
    },
    async pathOf(digest) {
      const path = await store.pathOf(digest, false)
      assert(path !== undefined)
      return path
    },
  }
}

test('look-after-blobs: a tree that is whole is held, what is absent is not', async (t) => {
  const { tree, check, suspected } = await open(t)
  assert(tree.kind === 'dir')
  const absent: Entry = { kind: 'file', digest: sha256('absent'), size: 6, executable: false }
  assert.deepEqual(await check(tree, absent), [tree.digest])
  assert.deepEqual(suspected, [absent.digest])
})

test('look-after-blobs: a tree with a file that is gone, damaged or cut short is not held, and the store is told', async (t) => {
  for (const harm of ['gone', 'damaged', 'short'] as const) {
    const { tree, inner, check, pathOf, suspected } = await open(t)
    const path = await pathOf(inner)
    if (harm === 'gone') rmSync(path)
    else {
      chmodSync(path, 0o644)
      writeFileSync(path, Buffer.alloc(harm === 'short' ? 10 : 300_000, 'other'))
    }
    assert.deepEqual(await check(tree), [], harm)
    assert.deepEqual(suspected, [inner], harm)
  }
})

test('look-after-blobs: a size that is not the right one is not held', async (t) => {
  const { inner, check } = await open(t)
  assert.deepEqual(await check({ kind: 'file', digest: inner, size: 3, executable: false }), [])
})
