/** Trees: one encoding per content, and nothing in them that could leave its directory. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { encodeCbor, OBJECT_BYTES_MAX } from '../../src/wire/cbor.ts'
import { digestBytes, EMPTY_DIGEST, sha256 } from '../../src/wire/digest.ts'
import {
  blobOf,
  compareNames,
  decodeTree,
  encodeTree,
  isSegment,
  sameEntry,
  TREE_ENTRIES_MAX,
  type Entry,
} from '../../src/wire/tree.ts'
import { TREE } from './samples.ts'
import { anyEntry } from './arbitraries.ts'

const file = { kind: 'file', digest: digestBytes(EMPTY_DIGEST), size: 0, executable: false }
const packed = (...entries: unknown[]): Uint8Array => encodeCbor({ v: 1, entries })
const refused = { code: 'MESH0210' }

test('tree: names that could lead elsewhere are refused', () => {
  for (const name of [
    '',
    '.',
    '..',
    '/',
    '/etc',
    'a/b',
    '../x',
    'a\0b',
    'x'.repeat(256),
    'ä'.repeat(128),
  ])
    assert.throws(() => decodeTree(packed([name, file])), refused, JSON.stringify(name))
  for (const name of [
    '...',
    '..a',
    'a ',
    '\n',
    '\\',
    'C:',
    'x'.repeat(255),
    'ä'.repeat(127),
    '-rf',
    '~',
  ])
    assert.equal(decodeTree(packed([name, file]))[0]?.name, name)
})

test('tree: names that are not UTF-8 or not well-formed are refused', () => {
  const bytes = Buffer.from(packed(['ab', file]))
  bytes.write('ff', bytes.indexOf('ab'), 'hex')
  assert.throws(() => decodeTree(bytes), refused)
  assert.throws(() => encodeTree([{ name: '\ud800', entry: { kind: 'symlink', target: 'x' } }]))
})

test('tree: unsorted and duplicate names are refused', () => {
  assert.throws(() => decodeTree(packed(['b', file], ['a', file])), refused)
  assert.throws(() => decodeTree(packed(['a', file], ['a', file])), refused)
  assert.throws(() => encodeTree([...TREE, ...TREE.slice(0, 1)]))
})

test('tree: names are ordered by their bytes, not by UTF-16 units', () => {
  // U+FF5E sorts after U+1F389 in UTF-16, before it in UTF-8.
  assert.deepEqual(['🎉', '\uff5e'].toSorted(compareNames), ['\uff5e', '🎉'])
  assert.deepEqual(['🎉', '\uff5e'].toSorted(), ['🎉', '\uff5e'])
  assert.deepEqual(decodeTree(packed(['\uff5e', file], ['🎉', file])).length, 2)
  assert.throws(() => decodeTree(packed(['🎉', file], ['\uff5e', file])), refused)
})

test('tree: every encoding but the canonical one is refused', () => {
  const bytes = Buffer.from(encodeTree(TREE))
  assert.throws(() => decodeTree(Buffer.concat([bytes, Buffer.of(0)])), refused, 'trailing byte')
  assert.throws(() => decodeTree(bytes.subarray(0, -1)), refused, 'cut off')
  assert.throws(() => decodeTree(new Uint8Array()), refused, 'empty')
  // a2 = map of two pairs; b802 says the same in a longer head, bf ... ff without a length.
  assert.throws(
    () => decodeTree(Buffer.concat([Buffer.from('b802', 'hex'), bytes.subarray(1)])),
    refused,
    'longer head',
  )
  assert.throws(
    () =>
      decodeTree(
        Buffer.concat([Buffer.from('bf', 'hex'), bytes.subarray(1), Buffer.from('ff', 'hex')]),
      ),
    refused,
  )
  const swapped = Buffer.concat([
    Buffer.from('a267656e747269657380', 'hex'),
    Buffer.from('617601', 'hex'),
  ])
  assert.throws(() => decodeTree(swapped), refused, 'keys in another order')
})

test('tree: unknown kinds, versions, fields and shapes are refused', () => {
  for (const value of [
    { v: 2, entries: [] },
    { v: 1 },
    { v: 1, entries: [], more: 1 },
    { v: 1, entries: {} },
    [],
    'tree',
    null,
    { v: 1, entries: [['a', { ...file, kind: 'device' }]] },
    { v: 1, entries: [['a', { ...file, mode: 0o777 }]] },
    { v: 1, entries: [['a', { ...file, size: -1 }]] },
    { v: 1, entries: [['a', { ...file, size: 1.5 }]] },
    { v: 1, entries: [['a', { ...file, size: 2 ** 44 }]] },
    { v: 1, entries: [['a', { ...file, digest: new Uint8Array(31) }]] },
    { v: 1, entries: [['a', { ...file, digest: EMPTY_DIGEST }]] },
    { v: 1, entries: [['a', { kind: 'symlink', target: '' }]] },
    { v: 1, entries: [['a', { kind: 'symlink', target: 'a\0' }]] },
    { v: 1, entries: [['a', { kind: 'symlink', target: 'x'.repeat(4096) }]] },
    { v: 1, entries: [['a', file, 1]] },
  ])
    assert.throws(() => decodeTree(encodeCbor(value)), refused, JSON.stringify(value))
})

test('tree: what is too large or too deep is refused without harm', () => {
  assert.throws(() => decodeTree(new Uint8Array(OBJECT_BYTES_MAX + 1)), refused)
  assert.throws(
    () => decodeTree(new Uint8Array(1_000_000).fill(0x81)),
    refused,
    'a million lists in each other',
  )
  assert.throws(
    () => decodeTree(Buffer.from('9b00ffffffffffffff', 'hex')),
    refused,
    'a list of 2^56 items',
  )
  assert.throws(
    () => decodeTree(Buffer.from('5b00ffffffffffffff', 'hex')),
    refused,
    'a string of 2^56 bytes',
  )
  assert(TREE_ENTRIES_MAX <= 100_000)
})

test('tree: content alone decides the bytes', () => {
  fc.assert(
    fc.property(anyTree, fc.integer(), (tree, seed) => {
      const shuffled = tree.toSorted((a, b) =>
        sha256(`${seed}${a.name}`) < sha256(`${seed}${b.name}`) ? -1 : 1,
      )
      const bytes = encodeTree(shuffled)
      assert.deepEqual(Buffer.from(bytes), Buffer.from(encodeTree(tree)))
      assert.deepEqual(
        decodeTree(bytes),
        tree.toSorted((a, b) => compareNames(a.name, b.name)),
      )
    }),
  )
})

test('tree: any bytes are a canonical tree or refused with a code', () => {
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), mutated(encodeTree(TREE))), (bytes) => {
      try {
        assert.deepEqual(Buffer.from(encodeTree(decodeTree(bytes))), Buffer.from(bytes))
      } catch (error) {
        if (!(error instanceof Error && 'code' in error && error.code === 'MESH0210')) throw error
      }
    }),
    { numRuns: 500 },
  )
})

test('tree: entries are compared by what they are', () => {
  const [a, b] = [sha256('a'), sha256('b')]
  const entries: Entry[] = [
    { kind: 'file', digest: a, size: 1, executable: false },
    { kind: 'file', digest: a, size: 1, executable: true },
    { kind: 'file', digest: b, size: 1, executable: false },
    { kind: 'dir', digest: a, size: 1 },
    { kind: 'symlink', target: a },
    { kind: 'symlink', target: b },
  ]
  for (const left of entries)
    for (const right of entries) assert.equal(sameEntry(left, right), left === right)
  for (const entry of entries) assert.equal(sameEntry(entry, structuredClone(entry)), true)
  assert.deepEqual(
    entries.map(blobOf).map((blob) => blob?.digest),
    [a, a, b, a, undefined, undefined],
  )
})

const segment = fc.string({ unit: 'binary', minLength: 1, maxLength: 60 }).filter(isSegment)
const anyTree = fc.uniqueArray(
  fc.record({ name: segment, entry: anyEntry }, { noNullPrototype: true }),
  { selector: ({ name }) => name, maxLength: 20 },
)

function mutated(bytes: Uint8Array): fc.Arbitrary<Uint8Array> {
  return fc
    .array(fc.tuple(fc.nat(bytes.byteLength - 1), fc.nat(255)), { minLength: 1, maxLength: 3 })
    .map((changes) => {
      const copy = Uint8Array.from(bytes)
      for (const [at, byte] of changes) copy[at] = byte
      return copy
    })
}
