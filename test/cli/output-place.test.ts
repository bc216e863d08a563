/** The directory of outputs: what may be replaced, also after a submit that was killed half-way. */
import assert from 'node:assert/strict'
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { systemRandom } from '../../src/base/random.ts'
import { checkPlaces, MARKER_FILE, outputPlaces, writePlaces } from '../../src/cli/output-place.ts'
import { sha256, type Digest } from '../../src/wire/digest.ts'
import type { Entry } from '../../src/wire/tree.ts'

const random = systemRandom()
const blobs = new Map<Digest, string>()
async function* read({ digest }: { readonly digest: Digest }): AsyncIterable<Uint8Array> {
  yield Buffer.from(blobs.get(digest) ?? '')
}
function file(text: string): Entry {
  blobs.set(sha256(text), text)
  return { kind: 'file', digest: sha256(text), size: text.length, executable: false }
}
const write = (directory: string, texts: Readonly<Record<string, string>>): Promise<void> =>
  writePlaces(
    { read, random },
    directory,
    Object.entries(texts).map(([name, text]) => ({ name, entry: file(text) })),
  )

class Directory implements Disposable {
  readonly path: string
  constructor() {
    this.path = mkdtempSync(join(tmpdir(), 'mesh-out-'))
  }
  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true })
  }
}

test('output-place: outputs are added and replaced, and leave nothing else behind', async () => {
  using directory = new Directory()
  const out = join(directory.path, 'a/result')
  await write(out, { x: '1', y: '2' })
  await write(out, { y: '3' })
  assert.deepEqual(readdirSync(out).toSorted(), [MARKER_FILE, 'x', 'y'])
  assert.equal(readFileSync(join(out, 'y'), 'utf8'), '3')
  await checkPlaces(out, ['x', 'y', 'z'])
})

test('output-place: killed between the marker and the swap, either content may be replaced', async () => {
  using directory = new Directory()
  const out = directory.path
  await write(out, { x: 'old' })
  writeFileSync(
    join(out, MARKER_FILE),
    JSON.stringify({ v: 1, outputs: { x: [file('old'), file('new')] } }),
  )
  await write(out, { x: 'third' })
  assert.equal(readFileSync(join(out, 'x'), 'utf8'), 'third')
  writeFileSync(
    join(out, MARKER_FILE),
    JSON.stringify({ v: 1, outputs: { x: [file('third'), file('new')] } }),
  )
  writeFileSync(join(out, 'x'), 'new')
  await write(out, { x: 'fourth' })
  assert.equal(readFileSync(join(out, 'x'), 'utf8'), 'fourth')
})

test('output-place: what a user changed, or put there, is refused', async () => {
  using directory = new Directory()
  const out = directory.path
  await write(out, { x: '1' })
  rmSync(join(out, 'x'))
  mkdirSync(join(out, 'x'))
  await assert.rejects(write(out, { x: '2' }), { code: 'MESH0209' })
  writeFileSync(join(out, 'mine'), '')
  await assert.rejects(checkPlaces(out, ['mine']), { code: 'MESH0209' })
  writeFileSync(join(out, MARKER_FILE), 'not json')
  await assert.rejects(checkPlaces(out, ['new']), { code: 'MESH0209' })
  renameSync(join(out, MARKER_FILE), join(out, 'plain'))
  await assert.rejects(checkPlaces(join(out, 'plain'), ['new']), { code: 'MESH0209' })
})

test('output-place: a failure in the middle leaves what was there', async () => {
  using directory = new Directory()
  const out = directory.path
  await write(out, { x: '1' })
  const absent: Entry = { kind: 'file', digest: sha256('absent'), size: 6, executable: false }
  await assert.rejects(
    writePlaces({ read, random }, out, [
      { name: 'x', entry: file('2') },
      { name: 'y', entry: absent },
    ]),
  )
  assert.deepEqual(readdirSync(out).toSorted(), [MARKER_FILE, 'x'])
  assert.equal(readFileSync(join(out, 'x'), 'utf8'), '1')
})

test('output-place: names of a daemon cannot lead out of the directory', () => {
  assert.throws(() => outputPlaces({ a: { '../b': file('') } }), { code: 'MESH0210' })
  assert.deepEqual(
    outputPlaces({ a: { out: file(''), doc: file('') } }).map(({ name }) => name),
    ['a', 'a.doc'],
  )
})
