/** Two builds of one thing, compared entry by entry. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  compareOutputs,
  DIFFERENCES_SHOWN_MAX,
  type Reader,
} from '../../src/cli/compare-outputs.ts'
import { differLines } from '../../src/cli/diff-view.ts'
import { sha256, type Digest } from '../../src/wire/digest.ts'
import { encodeTree, decodeTree, type Entry } from '../../src/wire/tree.ts'

/** Blobs by digest, and how often each was read. */
class Blobs implements Reader {
  readonly bytesOf = new Map<Digest, Uint8Array>()
  readonly reads: Digest[] = []

  file(text: string, executable = false): Entry {
    const bytes = Buffer.from(text)
    const digest = sha256(bytes)
    this.bytesOf.set(digest, bytes)
    return { kind: 'file', digest, size: bytes.byteLength, executable }
  }
  dir(entries: Readonly<Record<string, Entry>>): Entry {
    const bytes = encodeTree(Object.entries(entries).map(([name, entry]) => ({ name, entry })))
    const digest = sha256(bytes)
    this.bytesOf.set(digest, bytes)
    return { kind: 'dir', digest, size: bytes.byteLength }
  }
  #read(digest: Digest): Uint8Array {
    this.reads.push(digest)
    const bytes = this.bytesOf.get(digest)
    assert(bytes !== undefined)
    return bytes
  }
  tree = async ({ digest }: { readonly digest: Digest }) => decodeTree(this.#read(digest))
  bytes = async ({ digest }: { readonly digest: Digest }) => this.#read(digest)
}

const link = (target: string): Entry => ({ kind: 'symlink', target })

test('compare: every kind of difference is named at its path, in order, and what is alike is not read', async () => {
  const blobs = new Blobs()
  const same = blobs.dir({ deep: blobs.dir({ file: blobs.file('same') }) })
  const first = {
    doc: blobs.file('doc'),
    out: blobs.dir({
      bytes: blobs.file('at 10:02'),
      gone: blobs.file('x'),
      kind: blobs.file('x'),
      link: link('a'),
      mode: blobs.file('run', true),
      same,
      sub: blobs.dir({ longer: blobs.file('abc') }),
    }),
  }
  const second = {
    doc: blobs.file('doc'),
    out: blobs.dir({
      bytes: blobs.file('at 10:03'),
      kind: blobs.dir({}),
      link: link('b'),
      mode: blobs.file('run'),
      new: blobs.file('y'),
      same,
      sub: blobs.dir({ longer: blobs.file('abcd') }),
    }),
  }
  const { differences, count } = await compareOutputs(blobs, first, second)
  assert.deepEqual(
    differences.map(({ output, path, what }) => [output, path, what]),
    [
      ['out', 'bytes', 'bytes'],
      ['out', 'gone', 'only-first'],
      ['out', 'kind', 'kind'],
      ['out', 'link', 'target'],
      ['out', 'mode', 'mode'],
      ['out', 'new', 'only-second'],
      ['out', 'sub/longer', 'bytes'],
    ],
  )
  assert.equal(count, 7)
  assert.deepEqual(differences[0]?.bytes, {
    offset: 7,
    first: Buffer.from('2').toString('hex'),
    second: Buffer.from('3').toString('hex'),
  })
  assert.deepEqual(differences[6]?.bytes, { offset: 3, first: '', second: '64' })
  assert.ok(same.kind === 'dir' && !blobs.reads.includes(same.digest))
})

test('compare: outputs that only one of the two has, and none that differ', async () => {
  const blobs = new Blobs()
  const out = blobs.file('x')
  assert.deepEqual(await compareOutputs(blobs, { out }, { out }), { differences: [], count: 0 })
  const { differences } = await compareOutputs(blobs, { out }, { out, doc: out })
  assert.deepEqual(
    differences.map(({ output, path, what }) => [output, path, what]),
    [['doc', '', 'only-second']],
  )
})

test('compare: of many differences the first are told, and all are counted', async () => {
  const blobs = new Blobs()
  const many = (mark: string): Entry =>
    blobs.dir(
      Object.fromEntries(
        Array.from({ length: 50 }, (_, at) => [`f${at}`, blobs.file(`${mark} ${at}`)]),
      ),
    )
  const comparison = await compareOutputs(blobs, { out: many('a') }, { out: many('b') })
  assert.equal(comparison.differences.length, DIFFERENCES_SHOWN_MAX)
  assert.equal(comparison.count, 50)
  assert.equal(blobs.reads.length, 2 + 2 * DIFFERENCES_SHOWN_MAX)
})

test('compare: the lines name nodes, paths, offsets and bytes', async () => {
  const blobs = new Blobs()
  const comparison = await compareOutputs(
    blobs,
    { out: blobs.dir({ stamp: blobs.file('built at 10:02\n'), '\x1b[2J': blobs.file('') }) },
    { out: blobs.dir({ stamp: blobs.file('built at 10:03\n') }) },
  )
  const lines = differLines(
    {
      v: 1,
      job: 'j-1',
      name: 'hello',
      request: 'r-1',
      found: 'verify',
      agree: false,
      votes: [],
    },
    { first: 'ci-a', second: 'gpu-1' },
    comparison,
  )
  assert.deepEqual(
    lines.filter((line) => line.includes('\x1b')),
    [],
    'names of files cannot speak to the terminal',
  )
  assert.deepEqual(lines.slice(-3), [
    '  out/stamp: differs from byte 13 on (15 B)',
    '    ci-a   32 0a  2.',
    '    gpu-1  33 0a  3.',
  ])
})
