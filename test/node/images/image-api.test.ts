/** Names of images at their owner: versions, limits, what a restart and a compaction keep. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { MeshError } from '../../../src/base/errors.ts'
import { ImageApi } from '../../../src/node/images/image-api.ts'
import { openJournal } from '../../../src/node/owner/journal.ts'
import { Images, type ImageFact } from '../../../src/scheduler/images.ts'
import { sha256 } from '../../../src/wire/digest.ts'
import { IMAGES_MAX, type ImageOrder } from '../../../src/wire/images.ts'
import { peerOf } from '../../scheduler/samples.ts'

const order = (content: string, more: Partial<ImageOrder> = {}): ImageOrder => ({
  digest: sha256(Buffer.from(content)),
  size: 10,
  system: 'x86_64-linux',
  label: 'debian-12',
  sizeBytes: 1000,
  fileCount: 3,
  from: { peerId: peerOf('dev'), name: 'dev' },
  ...more,
})
const call = (body: unknown): Parameters<ImageApi['put']>[1] => ({
  verb: 'POST',
  path: '',
  body: JSON.stringify(body),
  user: 'dev/local',
  hops: 0,
})

/** The API over a table that facts change, which are kept. */
class Names {
  readonly images = new Images()
  readonly facts: ImageFact[] = []
  changes = 0
  readonly api = new ImageApi({
    images: this.images,
    wallMs: () => 1_700_000_000_000,
    record: async (fact) => {
      this.facts.push(fact)
      this.images.evolve(fact)
    },
    keeper: { of: () => ({ stores: ['s1'], problem: undefined }) },
    onChange: () => (this.changes += 1),
  })
}

const codeOf = (code: string) => (error: unknown) =>
  error instanceof MeshError && error.code === code

test('image-api: a name gets a tree, then another; what is said again is nothing new', async () => {
  const names = new Names()
  const first = await names.api.put('cc', call(order('one')))
  assert.deepEqual([first.version, first.by, first.stores], [1, 'dev/local', ['s1']])
  assert.equal((await names.api.put('cc', call(order('one')))).version, 1)
  assert.equal(names.facts.length, 1)
  assert.equal((await names.api.put('cc', call(order('two')))).version, 2)
  assert.equal(names.api.find('cc').digest, order('two').digest)
  assert.equal((await names.api.put('cc', call(order('two', { system: 'any' })))).system, 'any')
  assert.equal(names.changes, 4)
})

test('image-api: what is only to be new leaves another tree alone', async () => {
  const names = new Names()
  await names.api.put('cc', call(order('one')))
  await names.api.put('cc', call(order('one', { isNew: true })))
  await assert.rejects(names.api.put('cc', call(order('two', { isNew: true }))), codeOf('MESH0604'))
  assert.equal(names.api.find('cc').version, 1)
})

test('image-api: an unknown name is told with the nearest; a removed one is unknown', async () => {
  const names = new Names()
  assert.throws(
    () => names.api.find('cc'),
    (error) => codeOf('MESH0601')(error) && /no image has a name/.test(hintsOf(error)),
  )
  await names.api.put('debian-12', call(order('one')))
  assert.throws(
    () => names.api.find('debain-12'),
    (error) => /did you mean debian-12\?/.test(hintsOf(error)),
  )
  assert.equal((await names.api.remove('debian-12', call({}))).name, 'debian-12')
  assert.deepEqual(names.api.list(), [])
  await assert.rejects(names.api.remove('debian-12', call({})), codeOf('MESH0601'))
})
const hintsOf = (error: unknown): string => (error instanceof MeshError ? error.hints.join() : '')

test('image-api: bad names, bad orders and one name too many are refused', async () => {
  const names = new Names()
  for (const name of ['', 'A', '../x', '__proto__', 'x'.repeat(65)])
    await assert.rejects(names.api.put(name, call(order('one'))), codeOf('MESH0210'), name)
  await assert.rejects(names.api.put('cc', call({ digest: 'x' })), codeOf('MESH0210'))
  await assert.rejects(names.api.put('cc', { ...call({}), body: '{' }), codeOf('MESH0210'))
  for (let at = 0; at < IMAGES_MAX; at++) await names.api.put(`image-${at}`, call(order('one')))
  await assert.rejects(names.api.put('one-more', call(order('one'))), codeOf('MESH0211'))
  assert.equal((await names.api.put('image-7', call(order('two')))).version, 2)
})

test('image-api: replaying the journal, and what a compaction leaves of it, gives the same names', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'mesh-names-'))
  try {
    const names = new Names()
    await names.api.put('gone', call(order('one')))
    await names.api.put('cc', call(order('one')))
    await names.api.put('cc', call(order('two')))
    await names.api.put('debian', call(order('three')))
    await names.api.remove('gone', call({}))
    for (const isCompacted of [false, true]) {
      await using journal = await openJournal({ directory: join(directory, String(isCompacted)) })
      await journal.append(names.facts)
      if (isCompacted)
        await journal.compact(
          (fact) =>
            (fact.type === 'image-set' || fact.type === 'image-removed') &&
            names.images.needs(fact),
        )
      const replayed = new Images()
      let count = 0
      for await (const fact of journal.replay()) {
        count += 1
        if (fact.type === 'image-set' || fact.type === 'image-removed') replayed.evolve(fact)
      }
      assert.deepEqual(replayed.list(), names.images.list())
      assert.equal(count, isCompacted ? 2 : 5)
    }
  } finally {
    rmSync(directory, { recursive: true })
  }
})
