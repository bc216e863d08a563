/** Cuts by content: against values that never change, and what cutting promises. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import fc from 'fast-check'
import { Chunker, FastCdc, GEAR } from '../../src/files/fastcdc.ts'
import { CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, type Chunk } from '../../src/wire/chunk-list.ts'
import { sha256 } from '../../src/wire/digest.ts'
import { bytesOf } from '../contract/blob-store.ts'

const MIB = 1024 * 1024

function chunksOf(bytes: Uint8Array, pieceBytes = bytes.byteLength + 1): readonly Chunk[] {
  const chunker = new Chunker()
  for (let at = 0; at < bytes.byteLength; at += pieceBytes)
    chunker.add(bytes.subarray(at, at + pieceBytes))
  return chunker.finish()
}

/** What every list of chunks must be, whatever the bytes. */
function assertCovers(bytes: Uint8Array, chunks: readonly Chunk[]): void {
  let end = 0
  for (const [at, { digest, offset, length }] of chunks.entries()) {
    assert.equal(offset, end)
    assert.equal(digest, sha256(bytes.subarray(offset, offset + length)))
    assert(length <= CHUNK_BYTES_MAX)
    assert(length >= CHUNK_BYTES_MIN || (at === chunks.length - 1 && length > 0))
    end += length
  }
  assert.equal(end, bytes.byteLength)
}

const lengthsOf = (chunks: readonly Chunk[]): number[] => chunks.map(({ length }) => length)

/** Bytes of which some parts repeat: random alone never reaches the longest chunk, nor equal ones. */
const anyBytes = fc
  .array(
    fc.record({
      size: fc.integer({ min: 0, max: 700_000 }),
      seed: fc.integer({ min: 0, max: 20 }),
    }),
    { maxLength: 8 },
  )
  .map((parts) =>
    Buffer.concat(
      parts.map(({ size, seed }) => (seed < 5 ? Buffer.alloc(size, seed) : bytesOf(size, seed))),
    ),
  )

test('fastcdc: the table and the cuts never change', async () => {
  const text = await readFile(new URL('../fixtures/golden/fastcdc-v1.txt', import.meta.url), 'utf8')
  // sha256 of the table, big-endian; then lengths of the chunks of 8 MiB that look random, and of 3 MiB of zeros.
  const [table, random, zeros] = text.split('\n')
  const bytes = Buffer.alloc(1024)
  for (const [at, value] of GEAR.entries()) bytes.writeInt32BE(value, 4 * at)
  assert.equal(sha256(bytes), table)
  assert.equal(lengthsOf(chunksOf(bytesOf(8 * MIB, 7))).join(' '), random)
  assert.equal(lengthsOf(chunksOf(new Uint8Array(3 * MIB))).join(' '), zeros)
})

test('fastcdc: chunks cover the bytes, each of a size within bounds', () => {
  fc.assert(
    fc.property(anyBytes, (bytes) => assertCovers(bytes, chunksOf(bytes))),
    { numRuns: 20 },
  )
})

test('fastcdc: pieces of any size give the same cuts', () => {
  const anyPieces = fc.array(fc.integer({ min: 1, max: 300_000 }), { minLength: 1, maxLength: 20 })
  fc.assert(
    fc.property(anyBytes, anyPieces, (bytes, pieceBytes) => {
      const chunker = new Chunker()
      for (let at = 0, piece = 0; at < bytes.byteLength; piece++) {
        const size = pieceBytes[piece % pieceBytes.length] ?? 1
        chunker.add(bytes.subarray(at, at + size))
        at += size
      }
      assert.deepEqual(chunker.finish(), chunksOf(bytes))
    }),
    { numRuns: 20 },
  )
  // Byte by byte, over a cut and over the shortest length.
  const bytes = bytesOf(MIB, 3)
  assert.deepEqual(chunksOf(bytes, 1), chunksOf(bytes))
  assert(chunksOf(bytes).length > 2)
})

test('fastcdc: sizes around the bounds', () => {
  assert.deepEqual(chunksOf(new Uint8Array()), [])
  for (const size of [
    1,
    CHUNK_BYTES_MIN - 1,
    CHUNK_BYTES_MIN,
    CHUNK_BYTES_MIN + 1,
    CHUNK_BYTES_MAX - 1,
    CHUNK_BYTES_MAX,
    CHUNK_BYTES_MAX + 1,
  ]) {
    assertCovers(bytesOf(size), chunksOf(bytesOf(size)))
    // Zeros have no cut of their own: each chunk is as long as may be.
    const zeros = lengthsOf(chunksOf(new Uint8Array(size), 100_000))
    assert.deepEqual(zeros, size <= CHUNK_BYTES_MAX ? [size] : [CHUNK_BYTES_MAX, 1])
  }
})

test('fastcdc: an insertion, a removal and a change each touch few chunks', () => {
  const bytes = bytesOf(32 * MIB, 5)
  const known = new Set(chunksOf(bytes).map(({ digest }) => digest))
  const anyEdit = fc.record({
    at: fc.integer({ min: 0, max: bytes.byteLength - 1000 }),
    inserted: fc.uint8Array({ maxLength: 200 }),
    removedBytes: fc.integer({ min: 0, max: 200 }),
  })
  fc.assert(
    fc.property(anyEdit, ({ at, inserted, removedBytes }) => {
      const edited = Buffer.concat([
        bytes.subarray(0, at),
        inserted,
        bytes.subarray(at + removedBytes),
      ])
      const fresh = chunksOf(edited).filter(({ digest }) => !known.has(digest))
      const freshBytes = fresh.reduce((sum, { length }) => sum + length, 0)
      assert(freshBytes <= 6 * CHUNK_BYTES_MAX, `${freshBytes} bytes are new`)
    }),
    { numRuns: 8 },
  )
})

test('fastcdc: lengths gather around a quarter of a MiB', () => {
  const lengths = lengthsOf(chunksOf(bytesOf(64 * MIB, 9)))
  const mean = (64 * MIB) / lengths.length
  assert(mean > 200_000 && mean < 350_000, `the mean is ${mean}`)
  const middling = lengths.filter((length) => length > 128 * 1024 && length < 512 * 1024)
  assert(middling.length > 0.8 * lengths.length, `${middling.length} of ${lengths.length}`)
})

test('fastcdc: a cut that falls on the end of a piece is told with that piece', () => {
  const bytes = bytesOf(2 * MIB, 11)
  const [first] = chunksOf(bytes)
  assert(first !== undefined)
  const cdc = new FastCdc()
  assert.equal(cdc.findCut(bytes.subarray(0, first.length), 0), first.length)
  assert.equal(new FastCdc().findCut(bytes.subarray(0, first.length - 1), 0), undefined)
})
